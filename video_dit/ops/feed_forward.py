"""The transformer's feed-forward layer, over the whole sequence or a chunk of it at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, Linear.

    With `chunk_size` it runs over that many tokens at a time (the last chunk may be shorter), which bounds the memory
    of the hidden layer; the values are the same, since no token sees another.
    """

    def __init__(self, hidden_size: int, mlp_ratio: float = 4.0, chunk_size: int | None = None) -> None:
        super().__init__()
        inner_size = int(hidden_size * mlp_ratio)
        self.linear_in = nn.Linear(hidden_size, inner_size)
        self.linear_out = nn.Linear(inner_size, hidden_size)
        self.chunk_size = chunk_size

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        if self.chunk_size is None or x.shape[1] <= self.chunk_size:
            return self._feed_forward(x)
        return torch.cat([self._feed_forward(chunk) for chunk in torch.split(x, self.chunk_size, dim=1)], dim=1)

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.linear_in(x), approximate="tanh")
        y: Tensor = self.linear_out(hidden)
        return y
