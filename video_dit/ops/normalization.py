"""Normalization that a conditioning vector steers (adaLN: Peebles and Xie 2022, arXiv 2212.09748, section 3.2).

Each layer turns the conditioning into a `Branch` for every residual branch behind it, so that a block reads

    x = branch.add(x, attention(branch.norm(x)))
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_dit.precision import no_autocast

EPSILON = 1e-6
FP16_MAX = torch.finfo(torch.float16).max


class Conditioning(NamedTuple):
    """The vectors that steer the tokens of one stream.

    vectors: [B, R, D]: one for all tokens (R = 1), or one per frame or per packed clip.
    vector_of_token: [S] int64, which of the R vectors each token obeys; None where R is 1.
    """

    vectors: Tensor
    vector_of_token: Tensor | None = None

    def per_token(self, x: Tensor) -> Tensor:
        """[B, R, X] to [B, S, X], or [B, 1, X] where one serves all tokens."""
        return x if self.vector_of_token is None else x[:, self.vector_of_token]


class Branch(NamedTuple):
    """What the conditioning says to one residual branch, [B, 1 or S, D] each; without a gate the branch is open."""

    shift: Tensor
    scale: Tensor
    gate: Tensor | None

    def norm(self, x: Tensor) -> Tensor:
        """LayerNorm(x) (1 + scale) + shift, of [B, S, D]."""
        with no_autocast(x):
            normed = F.layer_norm(x, x.shape[-1:], eps=EPSILON)
        return torch.addcmul(self.shift, normed, 1 + self.scale)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + gate y: the residual connection. In fp16 it stays finite, as no scale of the loss would mend infinity."""
        added = x + y if self.gate is None else torch.addcmul(x, self.gate, y)
        return added.clamp(-FP16_MAX, FP16_MAX) if added.dtype == torch.float16 else added


class _AdaLayerNorm(nn.Module):
    """SiLU and a linear layer that starts at zero: every norm starts plain, and every gate closed."""

    def __init__(self, hidden_size: int, num_parts: int) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.linear = nn.Linear(hidden_size, num_parts * hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def parts(self, conditioning: Conditioning) -> Iterator[Tensor]:
        parts = self.linear(F.silu(conditioning.vectors)).chunk(self.num_parts, dim=-1)
        return map(conditioning.per_token, parts)


class AdaLayerNormZero(_AdaLayerNorm):
    """Shift, scale and gate for each branch. The gates start at zero, so that a fresh block is the identity."""

    def __init__(self, hidden_size: int, num_branches: int = 2) -> None:
        super().__init__(hidden_size, 3 * num_branches)

    def forward(self, conditioning: Conditioning) -> list[Branch]:
        parts = self.parts(conditioning)
        return [Branch(shift, scale, gate) for shift, scale, gate in zip(parts, parts, parts, strict=True)]


class AdaLayerNorm(_AdaLayerNorm):
    """Shift and scale for each branch, and no gates: DiT's "adaLN"."""

    def __init__(self, hidden_size: int, num_branches: int = 2) -> None:
        super().__init__(hidden_size, 2 * num_branches)

    def forward(self, conditioning: Conditioning) -> list[Branch]:
        parts = self.parts(conditioning)
        return [Branch(shift, scale, None) for shift, scale in zip(parts, parts, strict=True)]


class AdaLayerNormContinuous(_AdaLayerNorm):
    """Scale and shift, in this order, where nothing behind the norm is gated."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 2)

    def forward(self, conditioning: Conditioning) -> list[Branch]:
        scale, shift = self.parts(conditioning)
        return [Branch(shift, scale, None)]


class LayerNorms(nn.Module):
    """A learned LayerNorm for each branch, which the conditioning does not reach (ViT, U-ViT)."""

    def __init__(self, hidden_size: int, num_branches: int = 2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(num_branches, hidden_size))
        self.shift = nn.Parameter(torch.zeros(num_branches, hidden_size))

    def forward(self, _: Conditioning) -> list[Branch]:
        return [Branch(shift, scale, None) for shift, scale in zip(self.shift, self.scale, strict=True)]
