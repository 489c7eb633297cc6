"""From latents, timesteps, text and places to the transformer's width, and back to latents."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.contracts import ClipInfo
from video_dit.errors import UserError
from video_dit.ops.position import (
    Rotary,
    grid_positions,
    ntk_base,
    rotary_embedding,
    sinusoidal_embedding,
    spatial_sincos_embedding,
    temporal_sincos_embedding,
)
from video_dit.shapes import Grid


def patchify(latents: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """[B, C, F, H, W] to tokens [B, V, pt*ph*pw*C], time first, then height, then width."""
    pt, ph, pw = patch_size
    channels_last = latents.movedim(1, -1).contiguous()  # both copies together take two thirds of the time of one
    return rearrange(channels_last, "b (f pt) (h ph) (w pw) c -> b (f h w) (pt ph pw c)", pt=pt, ph=ph, pw=pw)


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
        """[..., width] to [..., D]."""
        return self.linear_out(F.silu(self.linear_in(x)))


class ConditioningEmbedder(nn.Module):
    """Timestep and pooled text (arXiv 2403.03206, figure 2a, y), and what else the config tells of the clip.

    Frame rate, size and crop go through sinusoids and a layer of their own, as in SDXL (arXiv 2307.01952, section 2.2).
    """

    FREQUENCIES = 256
    TIME_SCALE = 1000.0  # t in [0, 1] spans the range that the sinusoids were made for

    def __init__(self, config: ModelConfig, pooled_width: int) -> None:
        super().__init__()
        num_values = {"fps": 1, "size": 2, "crop": 2}
        self.timestep = MLPEmbedder(self.FREQUENCIES, config.hidden_size)
        self.pooled_text = MLPEmbedder(pooled_width, config.hidden_size)
        self.clip = nn.ModuleDict(
            {name: MLPEmbedder(num_values[name] * self.FREQUENCIES, config.hidden_size) for name in config.conditions}
        )

    def forward(self, t: Tensor, pooled: Tensor, clip: ClipInfo | None) -> tuple[Tensor, Tensor]:
        """
        Args:
            t: [B, R] in [0, 1], a timestep for all frames (R = 1) or for each.
            pooled: [B, Dp].
            clip: where the clips come from; needed where the config's `conditions` name a part of it.

        Returns:
            of the timesteps [B, R, D], and of the rest [B, 1, D]. Their sum steers the adaptive norms.
        """
        frequencies = sinusoidal_embedding(t * self.TIME_SCALE, self.FREQUENCIES)
        rest = self.pooled_text(pooled)
        for name, embedder in self.clip.items():
            assert clip is not None, f"model.conditions names {name}: give the model a ClipInfo"
            values = getattr(clip, name).view(len(pooled), -1)
            rest = rest + embedder(sinusoidal_embedding(values, self.FREQUENCIES).flatten(1).type_as(pooled))
        return self.timestep(frequencies.type_as(pooled)), rest[:, None]


class PositionEmbedding(nn.Module):
    """Where the video tokens stand: what is added to them, and how their queries and keys are turned.

    Args:
        config: which embeddings, and how places are counted.
        trained_grid: tokens of a clip in training, which scaled rotary embeddings and learned tables refer to.
    """

    def __init__(self, config: ModelConfig, trained_grid: Grid) -> None:
        super().__init__()
        self.config = config
        self.trained_grid = trained_grid
        self.table = Grid(trained_grid.frames, *(config.position_grid or trained_grid[1:]))
        if config.spatial_position == "learned":
            self.spatial = nn.Parameter(torch.empty(self.table.height, self.table.width, config.hidden_size))
            nn.init.normal_(self.spatial, std=0.02)
        if config.temporal_position == "learned":
            self.temporal = nn.Parameter(torch.zeros(self.table.frames, config.hidden_size))

    def positions(self, grid: Grid, clip: ClipInfo | None, device: torch.device) -> Tensor:
        """[V, 3] float (time, height, width), or [B, V, 3] with `reference_fps`."""
        config = self.config
        positions = grid_positions(grid, device)
        if config.position_grid is not None:
            positions[:, 1:] += torch.tensor(self._crop(grid), dtype=positions.dtype, device=device)
        positions[:, 1:] *= config.position_scale
        if config.reference_fps is None:
            return positions
        assert clip is not None, "model.reference_fps is set: give the model a ClipInfo"
        positions = positions.repeat(len(clip.fps), 1, 1)
        positions[..., 0] *= (config.reference_fps / clip.fps)[:, None]
        return positions

    def added(self, grid: Grid, positions: Tensor) -> Tensor | None:
        """[V, D] or [B, V, D], or None where nothing is added.

        Raises:
            UserError: the clip is longer or larger than the learned tables.
        """
        config = self.config
        self.check_fits(grid)
        places = positions.unflatten(-2, grid)  # each coordinate depends on its own axis alone
        parts = []
        if config.spatial_position == "sincos":
            heights, widths = places[..., 0, :, 0, 1], places[..., 0, 0, :, 2]
            of_frame = spatial_sincos_embedding(heights, widths, config.hidden_size)
            parts.append(of_frame.tile(grid.frames, 1))
        elif config.spatial_position == "learned":
            top, left = self._crop(grid)
            of_frame = self.spatial[top : top + grid.height, left : left + grid.width].flatten(0, 1)
            parts.append(of_frame.tile(grid.frames, 1))
        if config.temporal_position == "sincos":
            of_time = temporal_sincos_embedding(places[..., 0, 0, 0], config.hidden_size)
            parts.append(of_time.repeat_interleave(grid.height * grid.width, dim=-2))
        elif config.temporal_position == "learned":
            parts.append(self.temporal[: grid.frames].repeat_interleave(grid.height * grid.width, dim=0))
        return sum(parts[1:], start=parts[0]) if parts else None

    def rotary(self, grid: Grid, positions: Tensor) -> Rotary | None:
        """Cosine and sine, [V, K/2] or [B, V, K/2]."""
        config = self.config
        if not config.rotary:
            return None
        base = list(config.rotary_base)
        for axis, (length, trained) in enumerate(zip(grid, self.trained_grid, strict=True)):
            stretch = max(1.0, length / trained)
            if config.rotary_scaling == "interpolation":
                positions = positions / torch.tensor([stretch if i == axis else 1.0 for i in range(3)]).to(positions)
            elif config.rotary_scaling == "ntk":
                base[axis] = ntk_base(base[axis], config.rotary_channels[axis], stretch)
        return rotary_embedding(positions, config.rotary_channels, (base[0], base[1], base[2]))

    def _crop(self, grid: Grid) -> tuple[int, int]:
        """The first row and column of the clip in the table, which it takes the middle of."""
        if self.config.position_grid is None:
            return 0, 0
        return (self.table.height - grid.height) // 2, (self.table.width - grid.width) // 2

    def check_fits(self, grid: Grid) -> None:
        """
        Raises:
            UserError: the clip is longer or larger than the learned tables.
        """
        axes = {"spatial_position": slice(1, 3), "temporal_position": slice(1)}
        for key, axis in axes.items():
            needed, there = grid[axis], self.table[axis]
            if getattr(self.config, key) == "learned" and any(n > t for n, t in zip(needed, there, strict=True)):
                raise UserError(
                    f"model.{key} is learned for {' x '.join(map(str, there))} tokens, and this clip has "
                    f"{' x '.join(map(str, needed))}: make a smaller one, or train with sincos or rotary positions"
                )
