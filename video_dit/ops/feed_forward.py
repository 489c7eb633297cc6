"""The transformer's feed-forward layer, over the whole sequence or a chunk of it at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video_dit.ops.linear import Linear


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, Linear.

    With `chunk_size` it runs over that many tokens at a time (the last chunk may be shorter). No token sees another, so
    the values are the same; the hidden layer, `mlp_ratio` times as large as the rest, is there for one chunk alone. In
    training it is computed again in the backward pass, chunk by chunk, instead of being kept.
    """

    def __init__(self, hidden_size: int, mlp_ratio: float = 4.0, chunk_size: int | None = None) -> None:
        super().__init__()
        inner_size = int(hidden_size * mlp_ratio)
        self.linear_in = Linear(hidden_size, inner_size)
        self.linear_out = Linear(inner_size, hidden_size)
        self.chunk_size = chunk_size

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        if self.chunk_size is None or x.shape[1] <= self.chunk_size:
            return self._feed_forward(x)
        chunks = torch.split(x, self.chunk_size, dim=1)
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(self._feed_forward, chunk, use_reentrant=False) for chunk in chunks], dim=1)
        return torch.cat([self._feed_forward(chunk) for chunk in chunks], dim=1)

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear_out(F.gelu(self.linear_in(x), approximate="tanh"))
        return y
