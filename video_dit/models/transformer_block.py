"""The block of one stream that the baselines and the temporal layers are made of."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from video_dit.config import ModelConfig
from video_dit.models.attention import Attention
from video_dit.ops.attention import AttentionMask
from video_dit.ops.feed_forward import FeedForward
from video_dit.ops.normalization import AdaLayerNorm, AdaLayerNormZero, Conditioning, LayerNorms
from video_dit.ops.position import Rotary
from video_dit.parallel import Shard

Norms = type[AdaLayerNormZero] | type[AdaLayerNorm] | type[LayerNorms]


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text where wanted, feed-forward (Peebles and Xie 2022, figure 3).

    Args:
        config: widths, norms and chunks.
        norms: how the conditioning reaches the branches: `AdaLayerNormZero`, `AdaLayerNorm` or, not at all,
            `LayerNorms`.
        cross_attention: between the two others, look at the text.
    """

    def __init__(self, config: ModelConfig, norms: Norms = AdaLayerNormZero, cross_attention: bool = False) -> None:
        super().__init__()
        self.norm = norms(config.hidden_size, num_branches=3 if cross_attention else 2)
        self.attention = Attention(config)
        self.cross_attention = Attention(config) if cross_attention else None
        self.feed_forward = FeedForward(config.hidden_size, config.mlp_ratio, config.feed_forward_chunk_size)

    def forward(
        self,
        x: Tensor,
        conditioning: Conditioning,
        mask: AttentionMask | None = None,
        rotary: Rotary | None = None,
        backend: str = "auto",
        shard: Shard | None = None,
        text: Tensor | None = None,
        text_mask: AttentionMask | None = None,
    ) -> Tensor:
        """
        Args:
            x: [B, S, D].
            conditioning: steers the tokens of x.
            mask: who sees whom within x.
            rotary: turns the first tokens of x; see `rotate_first`.
            backend: see `attention`.
            shard: which of the first tokens of x this rank has; see `attend`.
            text: [B, L, D], for the cross-attention.
            text_mask: what x sees of it.

        Returns:
            [B, S, D].
        """
        attention_branch, feed_forward_branch, *cross_branch = self.norm(conditioning)
        normed = attention_branch.norm(x)
        x = attention_branch.add(x, self.attention(normed, normed, mask, rotary, backend, shard))
        if self.cross_attention is not None:
            found = self.cross_attention(cross_branch[0].norm(x), text, text_mask, None, backend)
            x = cross_branch[0].add(x, found)
        return feed_forward_branch.add(x, self.feed_forward(feed_forward_branch.norm(x)))


def temporal_blocks(config: ModelConfig, norms: Norms = AdaLayerNormZero) -> nn.ModuleList:
    """Under the factorised pattern one for each block, to follow it through time; else none."""
    num_blocks = config.depth if config.attention_pattern == "factorised" else 0
    return nn.ModuleList(TransformerBlock(config, norms) for _ in range(num_blocks))


def run(block: nn.Module, recompute: bool, *arguments: Any) -> Any:
    """The block's output; with `recompute` its activations are computed again in the backward pass, not kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)
