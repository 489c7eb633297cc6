"""Normalization that a conditioning vector steers (adaLN-Zero: Peebles and Xie 2022, arXiv 2212.09748, section 3.2)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Modulation(NamedTuple):
    """What the conditioning says to one residual branch: [B, 1, D] each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, with x [B, S, D]."""
    return x * (1 + scale) + shift


class AdaLayerNormZero(nn.Module):
    """LayerNorm steered by the conditioning, which also gives the gates of the two residual branches behind it.

    The projection starts at zero, so that a fresh block is the identity.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, 6 * hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor, Modulation]:
        """
        Args:
            x: [B, S, D] tokens of one stream.
            conditioning: [B, D].

        Returns:
            the input of the attention branch [B, S, D], that branch's gate [B, 1, D], and the modulation of the
            feed-forward branch.
        """
        shift, scale, gate, *feed_forward = self.linear(F.silu(conditioning))[:, None].chunk(6, dim=-1)
        return modulate(self.norm(x), shift, scale), gate, Modulation(*feed_forward)


class AdaLayerNormContinuous(nn.Module):
    """LayerNorm whose shift and scale come from the conditioning; nothing behind it is gated."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, 2 * hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """x [B, S, D] and conditioning [B, D] to [B, S, D]."""
        scale, shift = self.linear(F.silu(conditioning))[:, None].chunk(2, dim=-1)
        return modulate(self.norm(x), shift, scale)
