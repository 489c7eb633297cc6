"""Queries, keys and values of one kind of token, and the attention layer of one sequence or two."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.ops.attention import AttentionMask, attention
from video_dit.ops.linear import Linear
from video_dit.ops.normalization import EPSILON
from video_dit.ops.position import Rotary, apply_rotary
from video_dit.parallel import Shard
from video_dit.precision import no_autocast


class _RMSNorm(nn.RMSNorm):
    """With the weight in the input's type: under autocast they differ, and PyTorch leaves its fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def _head_norm(kind: str, head_size: int) -> nn.Module:
    if kind == "rms":
        return _RMSNorm(head_size, eps=EPSILON)
    return nn.LayerNorm(head_size, eps=EPSILON) if kind == "layer" else nn.Identity()


class Projection(nn.Module):
    """Queries or keys, normalized per head when asked for, or values."""

    def __init__(self, config: ModelConfig, norm: str = "none") -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.linear = Linear(config.hidden_size, config.hidden_size)
        self.norm = _head_norm(norm, config.head_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, N, S, K]."""
        heads = rearrange(self.linear(x), "b s (n k) -> b n s k", n=self.num_heads)
        return self.norm(heads).type_as(heads)


def merge_heads(x: Tensor) -> Tensor:
    """[B, N, S, K] to [B, S, D]."""
    return rearrange(x, "b n s k -> b s (n k)")


class Attention(nn.Module):
    """Tokens look at those of a sequence, their own or another, that the mask allows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.to_q, self.to_k = (Projection(config, config.qk_norm) for _ in range(2))
        self.to_v = Projection(config)
        self.to_out = Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: Tensor,
        seen: Tensor,
        mask: AttentionMask | None,
        rotary: Rotary | None,
        backend: str,
        shard: Shard | None = None,
    ) -> Tensor:
        """
        Args:
            x: [B, S, D], the tokens that look.
            seen: [B, S', D], what they look at; x itself in self-attention.
            mask: which of these each sees.
            rotary: of the video's tokens, which come first in both; None in cross-attention.
            backend: see `attention`.
            shard: see `attend`.

        Returns:
            [B, S, D].
        """
        q, k = rotate_first(self.to_q(x), rotary), rotate_first(self.to_k(seen), rotary)
        return self.to_out(merge_heads(attend(q, k, self.to_v(seen), mask, backend, shard)))


def attend(
    q_BNSK: Tensor, k_BNSK: Tensor, v_BNSK: Tensor, mask: AttentionMask | None, backend: str, shard: Shard | None
) -> Tensor:
    """`attention`, in which the first tokens may be this rank's part of a video's.

    Args:
        q_BNSK, k_BNSK, v_BNSK: of all heads; of this rank's tokens, and of what comes behind them on all ranks alike.
        mask: over all tokens.
        backend: see `attention`.
        shard: which tokens this rank has; None: all.

    Returns:
        [B, N, S, K], of the queries that were given.
    """
    if shard is None:
        return attention(q_BNSK, k_BNSK, v_BNSK, mask, backend)
    q, k, v = (shard.to_heads(x) for x in (q_BNSK, k_BNSK, v_BNSK))
    return shard.to_tokens(attention(q, k, v, mask, backend), q_BNSK.shape[1])


def rotate_first(x: Tensor, rotary: Rotary | None) -> Tensor:
    """[B, N, S, K] with the first V tokens turned, V being the number of angles."""
    if rotary is None:
        return x
    num_rotated = rotary[0].shape[-2]
    if num_rotated == x.shape[2]:
        return apply_rotary(x, *rotary)
    return torch.cat((apply_rotary(x[:, :, :num_rotated], *rotary), x[:, :, num_rotated:]), dim=2)
