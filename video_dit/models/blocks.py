"""The joint transformer block (Esser et al. 2024, arXiv 2403.03206, figure 2b)."""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from video_dit.ops.attention import attention
from video_dit.ops.feed_forward import FeedForward
from video_dit.ops.normalization import AdaLayerNormContinuous, AdaLayerNormZero, Modulation, modulate
from video_dit.ops.position import apply_rotary

QKNorm = Literal["none", "rms"]
Rotary = tuple[Tensor, Tensor]


class HeadProjection(nn.Module):
    """Queries or keys of one stream, normalized per head when asked for."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: QKNorm) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6) if qk_norm == "rms" else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, N, S, K]."""
        heads = rearrange(self.linear(x), "b s (n k) -> b n s k", n=self.num_heads)
        return heads if self.norm is None else self.norm(heads).type_as(heads)


class JointAttention(nn.Module):
    """Each stream projects with its own weights; all tokens of both attend to all.

    With `context_pre_only` the text is seen but does not look: it has keys and values, and no queries and no output.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: QKNorm, context_pre_only: bool) -> None:
        super().__init__()
        self.video_q, self.video_k, self.text_k = (HeadProjection(hidden_size, num_heads, qk_norm) for _ in range(3))
        self.video_v, self.text_v = (HeadProjection(hidden_size, num_heads, "none") for _ in range(2))
        self.video_out = nn.Linear(hidden_size, hidden_size)
        self.context_pre_only = context_pre_only
        if not context_pre_only:
            self.text_q = HeadProjection(hidden_size, num_heads, qk_norm)
            self.text_out = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, video: Tensor, text: Tensor, text_mask: Tensor, rotary: Rotary | None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            video: [B, V, D].
            text: [B, L, D].
            text_mask: [B, L] bool, false on padding.
            rotary: cos and sin, [V, K/2] each, of the video tokens' positions; None to leave them unrotated.

        Returns:
            video [B, V, D] and text [B, L, D], the latter None with `context_pre_only`.
        """
        q, k = self.video_q(video), self.video_k(video)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        k = torch.cat((k, self.text_k(text)), dim=2)
        v = torch.cat((self.video_v(video), self.text_v(text)), dim=2)
        if not self.context_pre_only:
            q = torch.cat((q, self.text_q(text)), dim=2)
        key_mask = torch.cat((text_mask.new_ones(video.shape[:2]), text_mask), dim=1)

        attended = rearrange(attention(q, k, v, key_mask), "b n s k -> b s (n k)")
        num_video_tokens = video.shape[1]
        video = self.video_out(attended[:, :num_video_tokens])
        return video, None if self.context_pre_only else self.text_out(attended[:, num_video_tokens:])


class JointTransformerBlock(nn.Module):
    """Two streams, video and text, with separate weights and one joint attention.

    `context_pre_only` is for the last block: the text stream still gives keys and values, but nothing reads it
    afterwards, so its output and feed-forward are left out.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qk_norm: QKNorm = "rms",
        context_pre_only: bool = False,
        feed_forward_chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.context_pre_only = context_pre_only
        self.norm1 = AdaLayerNormZero(hidden_size)
        self.norm1_context = AdaLayerNormContinuous(hidden_size) if context_pre_only else AdaLayerNormZero(hidden_size)
        self.attn = JointAttention(hidden_size, num_heads, qk_norm, context_pre_only)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.ff = FeedForward(hidden_size, mlp_ratio, feed_forward_chunk_size)
        if not context_pre_only:
            self.norm2_context = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
            self.ff_context = FeedForward(hidden_size, mlp_ratio, feed_forward_chunk_size)

    def forward(
        self, video: Tensor, text: Tensor, conditioning: Tensor, text_mask: Tensor, rotary: Rotary | None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            video: [B, V, D].
            text: [B, L, D].
            conditioning: [B, D], timestep and pooled text.
            text_mask: [B, L] bool, false on padding.
            rotary: see `JointAttention`.

        Returns:
            video [B, V, D] and text [B, L, D], the latter None with `context_pre_only`.
        """
        if self.context_pre_only:
            video_in, video_gate, video_mlp = self.norm1(video, conditioning)
            video_attn, _ = self.attn(video_in, self.norm1_context(text, conditioning), text_mask, rotary)
            video = video + video_gate * video_attn
            return _add_feed_forward(video, self.norm2, self.ff, video_mlp), None

        video_in, video_gate, video_mlp = self.norm1(video, conditioning)
        text_in, text_gate, text_mlp = self.norm1_context(text, conditioning)
        video_attn, text_attn = self.attn(video_in, text_in, text_mask, rotary)
        video = video + video_gate * video_attn
        text = text + text_gate * text_attn
        return (
            _add_feed_forward(video, self.norm2, self.ff, video_mlp),
            _add_feed_forward(text, self.norm2_context, self.ff_context, text_mlp),
        )


def _add_feed_forward(x: Tensor, norm: nn.Module, feed_forward: nn.Module, modulation: Modulation) -> Tensor:
    return x + modulation.gate * feed_forward(modulate(norm(x), modulation.shift, modulation.scale))
