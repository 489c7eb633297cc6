"""From latents, timesteps and pooled text to the transformer's width, and back to latents."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_dit.ops.position import sinusoidal_embedding
from video_dit.shapes import Grid


def patchify(latents: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """[B, C, F, H, W] to tokens [B, V, pt*ph*pw*C], time first, then height, then width."""
    pt, ph, pw = patch_size
    return rearrange(latents, "b c (f pt) (h ph) (w pw) -> b (f h w) (pt ph pw c)", pt=pt, ph=ph, pw=pw)


def unpatchify(tokens: Tensor, grid: Grid, patch_size: tuple[int, int, int]) -> Tensor:
    """The inverse of `patchify`; `grid` is the token grid."""
    pt, ph, pw = patch_size
    return rearrange(
        tokens,
        "b (f h w) (pt ph pw c) -> b c (f pt) (h ph) (w pw)",
        f=grid.frames, h=grid.height, w=grid.width, pt=pt, ph=ph, pw=pw,
    )  # fmt: skip


class MLPEmbedder(nn.Module):
    """Linear, SiLU, Linear: how timesteps and pooled text reach the transformer's width."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(width, hidden_size)
        self.linear_out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] to [B, D]."""
        return self.linear_out(F.silu(self.linear_in(x)))


class TimestepAndTextEmbedding(nn.Module):
    """The conditioning vector: the timestep's embedding plus the pooled text's (arXiv 2403.03206, figure 2a, y)."""

    FREQUENCIES = 256
    TIME_SCALE = 1000.0  # t in [0, 1] spans the range that the sinusoids were made for

    def __init__(self, pooled_width: int, hidden_size: int) -> None:
        super().__init__()
        self.timestep = MLPEmbedder(self.FREQUENCIES, hidden_size)
        self.pooled_text = MLPEmbedder(pooled_width, hidden_size)

    def forward(self, t: Tensor, pooled: Tensor) -> Tensor:
        """t [B] in [0, 1] and pooled [B, Dp] to [B, D]."""
        frequencies = sinusoidal_embedding(t * self.TIME_SCALE, self.FREQUENCIES)
        return self.timestep(frequencies.type_as(pooled)) + self.pooled_text(pooled)
