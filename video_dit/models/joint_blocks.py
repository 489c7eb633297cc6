"""Blocks in which video and text attend to each other (Esser et al. 2024, arXiv 2403.03206, figure 2b)."""

import torch
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.models.attention import Attention, Projection, attend, merge_heads, rotate_first
from video_dit.models.context import Context
from video_dit.ops.feed_forward import FeedForward
from video_dit.ops.linear import Linear
from video_dit.ops.normalization import AdaLayerNormContinuous, AdaLayerNormZero, Branch, Conditioning


class Stream(nn.Module):
    """One column of the paper's figure: what the tokens of one kind have to themselves in a block.

    With `pre_only` the tokens are seen and do not look: they have keys and values, and nothing after the attention.
    """

    def __init__(
        self, config: ModelConfig, qk_norm: str, pre_only: bool = False, use_dual_attention: bool = False
    ) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.pre_only = pre_only
        self.to_k, self.to_v = Projection(config, qk_norm), Projection(config)
        if pre_only:
            self.norm: nn.Module = AdaLayerNormContinuous(hidden_size)
            return
        self.norm = AdaLayerNormZero(hidden_size, num_branches=3 if use_dual_attention else 2)
        self.to_q = Projection(config, qk_norm)
        self.to_out = Linear(hidden_size, hidden_size)
        self.dual_attention = Attention(config) if use_dual_attention else None
        self.feed_forward = FeedForward(hidden_size, config.mlp_ratio, config.feed_forward_chunk_size)

    def after_attention(self, x: Tensor, attended: Tensor, branches: list[Branch], context: Context) -> Tensor:
        """The rest of the block: x [B, S, D] and what its queries found [B, N, S, K] to [B, S, D]."""
        attention_branch, feed_forward_branch, *dual_branch = branches
        y = attention_branch.add(x, self.to_out(merge_heads(attended)))
        if self.dual_attention is not None:
            normed = dual_branch[0].norm(x)
            shared = (context.rotary, context.backend, context.shard)
            found = self.dual_attention(normed, normed, context.masks.video, *shared)
            y = dual_branch[0].add(y, found)
        return feed_forward_branch.add(y, self.feed_forward(feed_forward_branch.norm(y)))


class JointTransformerBlock(nn.Module):
    """Streams with separate weights, video first and then text, and one attention over all their tokens.

    Args:
        config: widths, norms and chunks.
        context_pre_only: for the last block: the text still gives keys and values, but nothing reads it afterwards, so
            its output and feed-forward are left out.
        use_dual_attention: adds an attention of the video alone, beside the joint one (SD3.5).
    """

    def __init__(self, config: ModelConfig, context_pre_only: bool = False, use_dual_attention: bool = False) -> None:
        super().__init__()
        self.context_pre_only = context_pre_only
        self.text_split = config.text_split
        text_qk_norm = config.text_qk_norm or config.qk_norm
        self.video = Stream(config, config.qk_norm, use_dual_attention=use_dual_attention)
        num_text_streams = 1 if config.text_split is None else 2
        self.texts = nn.ModuleList(Stream(config, text_qk_norm, context_pre_only) for _ in range(num_text_streams))

    def forward(self, video: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """
        Args:
            video: [B, V, D].
            text: [B, L, D].
            context: conditioning, masks and positions.

        Returns:
            video [B, V, D] and text [B, L, D]; with `context_pre_only` the text is as it came.
        """
        texts = self._split(text)
        video_branches = self.video.norm(context.video_conditioning)
        text_branches = [
            stream.norm(conditioning)
            for stream, conditioning in zip(
                self.texts, self._split_conditioning(context.text_conditioning), strict=True
            )
        ]
        streams = [self.video, *self.texts]
        normed = [video_branches[0].norm(video)]
        normed += [branches[0].norm(x) for branches, x in zip(text_branches, texts, strict=True)]

        q = [stream.to_q(x) for stream, x in zip(streams, normed, strict=True) if not stream.pre_only]
        k = [stream.to_k(x) for stream, x in zip(streams, normed, strict=True)]
        v = [stream.to_v(x) for stream, x in zip(streams, normed, strict=True)]
        q[0], k[0] = rotate_first(q[0], context.rotary), rotate_first(k[0], context.rotary)
        mask = context.masks.into_video if self.context_pre_only else context.masks.joint
        joined = (torch.cat(parts, dim=2) for parts in (q, k, v))
        attended = attend(*joined, mask, context.backend, context.shard)

        video_attended, *texts_attended = attended.split([x.shape[2] for x in q], dim=2)
        video = self.video.after_attention(video, video_attended, video_branches, context)
        if self.context_pre_only:
            return video, text
        texts = [
            stream.after_attention(x, found, branches, context)
            for stream, x, found, branches in zip(self.texts, texts, texts_attended, text_branches, strict=True)
        ]
        return video, torch.cat(texts, dim=1)

    def _split(self, x: Tensor) -> list[Tensor]:
        return [x] if self.text_split is None else [x[:, : self.text_split], x[:, self.text_split :]]

    def _split_conditioning(self, conditioning: Conditioning) -> list[Conditioning]:
        vectors, vector_of_token = conditioning
        if self.text_split is None or vector_of_token is None:
            return [conditioning] * len(self.texts)
        return [Conditioning(vectors, part[0]) for part in self._split(vector_of_token[None])]


class SingleStreamBlock(nn.Module):
    """Video and text with shared weights, attention and feed-forward side by side, as in the later blocks of Flux.

    The parallel layout is that of ViT-22B (Dehghani et al. 2023, arXiv 2302.05442, section 2).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = AdaLayerNormZero(config.hidden_size, num_branches=1)
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.hidden_size, config.mlp_ratio, config.feed_forward_chunk_size)

    def forward(self, video: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """video [B, V, D] and text [B, L, D] to the same; see `JointTransformerBlock`."""
        x = torch.cat((video, text), dim=1)
        (branch,) = self.norm(context.joint_conditioning)
        normed = branch.norm(x)
        attended = self.attention(normed, normed, context.masks.joint, context.rotary, context.backend, context.shard)
        x = branch.add(x, attended + self.feed_forward(normed))
        return x[:, : video.shape[1]], x[:, video.shape[1] :]
