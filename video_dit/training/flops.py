"""How many operations a training step takes, in closed form.

Forward, per sample: 2 n_in n_out for each token that a linear layer sees, and 4 D for each pair of a query and a key
that the attention pattern lets meet (q k^T and the weighted sum of v, all heads together). Backward: twice that, for
the gradients of a layer's inputs and of its weights, but once for the layers that read the inputs, and once less where
weights are not trained; gradients are taken to pass through every layer, though below all that is trained they do not.
Norms, rotations and activations are left out. This is the count of PaLM (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B), by which MFU is defined; what is computed again is counted by itself.
"""

from typing import NamedTuple

import torch
from torch import nn

from video_dit.config import ModelConfig
from video_dit.models import VideoDiT
from video_dit.models.context import Masks, batch_masks, repeats_text
from video_dit.models.joint_blocks import JointTransformerBlock, SingleStreamBlock
from video_dit.models.transformer_block import TransformerBlock
from video_dit.ops.attention import AttentionMask
from video_dit.ops.feed_forward import FeedForward
from video_dit.shapes import Grid


class StepFlops(NamedTuple):
    """Floating-point operations of one sample's forward and backward pass.

    linear, attention: forward and backward.
    recomputed: beyond these, what recomputation and chunks compute again.
    """

    linear: int
    attention: int
    recomputed: int

    @property
    def model(self) -> int:
        """What MFU counts."""
        return self.linear + self.attention


class _Sequence(NamedTuple):
    """Tokens of one sample: of the video, of the text with all its copies, and whose pairs attention computes.

    vectors, text_vectors: that adaptive norms see beside the tokens.

    With `trained_only` layers count whose weights are trained, and no others.
    """

    video: int
    text: int
    vectors: int
    text_vectors: int
    masks: Masks
    trained_only: bool = False

    @property
    def joint(self) -> "_Sequence":
        """The same, where one norm sees the vectors of both."""
        return self._replace(vectors=self.vectors + self.text_vectors) if self.vectors > 1 else self

    def linear(self, module: nn.Module, tokens: int) -> int:
        """All linear layers in a module, each over so many tokens."""
        layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
        counted = (layer for layer in layers if layer.weight.requires_grad or not self.trained_only)
        return sum(2 * layer.in_features * layer.out_features * tokens for layer in counted)


def step_flops(model: VideoDiT, grid: Grid, text_length: int, per_frame_noise: bool = False) -> StepFlops:
    """
    Args:
        model: on any device; nothing is computed with it.
        grid: of the video tokens.
        text_length: L, all of it tokens: padding is computed too.
        per_frame_noise: each frame has a timestep of its own.
    """
    config = model.config
    length = text_length if config.has_adaptive_norms else text_length + 2
    masks = batch_masks(config, grid, torch.ones(1, length, dtype=torch.bool))
    text = length * (grid.frames if repeats_text(config) else 1)
    vectors = grid.frames if per_frame_noise or config.given_frames else 1
    sequence = _Sequence(grid.size, text, vectors, vectors if repeats_text(config) else 1, masks)

    blocks, temporal = model.backbone.blocks, model.backbone.temporal_blocks
    of_blocks = [_block(block, sequence, config) for block in blocks]
    of_temporal = [_temporal_block(block, sequence, config) for block in temporal]
    attention = sum(of_block[1] for of_block in of_blocks + of_temporal)
    linear, of_inputs = _linear(model, sequence, text_length)
    of_weights, _ = _linear(model, sequence._replace(trained_only=True), text_length)
    recomputed = sum(map(sum, of_blocks[: config.recompute_blocks] + of_temporal[: config.recompute_blocks]))
    recomputed += sum(_chunked(block, sequence, config, config.name == "mmdit") for block in blocks)
    recomputed += sum(_chunked(block, sequence, config, False, temporal=True) for block in temporal)
    return StepFlops(2 * linear - of_inputs + of_weights, 3 * attention, recomputed)


def _linear(model: VideoDiT, sequence: _Sequence, text_length: int) -> tuple[int, int]:
    """Forward, of all linear layers; and of these, those whose inputs have no gradient."""
    backbone, config = model.backbone, model.config
    linear, of_inputs = _ends(model, sequence, text_length)
    linear += sum(_block(block, sequence, config)[0] for block in backbone.blocks)
    linear += sum(_temporal_block(block, sequence, config)[0] for block in backbone.temporal_blocks)
    linear += sum(sequence.linear(x, sequence.video + sequence.text) for x in getattr(backbone, "skips", []))
    return linear, of_inputs


def _pairs(mask: AttentionMask | None, num_queries: int, num_keys: int) -> int:
    if mask is None or mask.groups is None:
        return num_queries * num_keys
    return sum(queries.numel() * keys.shape[1] for queries, keys in mask.groups)


def _ends(model: VideoDiT, sequence: _Sequence, text_length: int) -> tuple[int, int]:
    """Forward, of all that is not the backbone; and of that, the layers whose inputs have no gradient."""
    embedder = model.conditioning_embedder
    others = [embedder.pooled_text, *embedder.clip.values()]
    of_inputs = sequence.linear(model.video_embedder, sequence.video) + sequence.linear(
        model.text_embedder, text_length
    )
    of_inputs += sequence.linear(embedder.timestep.linear_in, sequence.vectors) + sum(
        sequence.linear(x.linear_in, 1) for x in others
    )
    hidden = sequence.linear(embedder.timestep.linear_out, sequence.vectors) + sum(
        sequence.linear(x.linear_out, 1) for x in others
    )
    of_outputs = sequence.linear(model.norm_out, sequence.vectors) + sequence.linear(model.proj_out, sequence.video)
    return of_inputs + hidden + of_outputs, of_inputs


def _block(block: nn.Module, sequence: _Sequence, config: ModelConfig) -> tuple[int, int]:
    """Forward, of the linear layers and of the attention."""
    video, text, masks = sequence.video, sequence.text, sequence.masks
    both = video + text
    if isinstance(block, JointTransformerBlock):
        split = text if config.text_split is None else config.text_split
        linear = _beside_norm(block.video, sequence, video)
        lengths = (split, text - split)
        of_text = sequence._replace(vectors=sequence.text_vectors)
        linear += sum(_beside_norm(stream, of_text, n) for stream, n in zip(block.texts, lengths, strict=False))
        mask, num_queries = (masks.into_video, video) if block.context_pre_only else (masks.joint, both)
        pairs = _pairs(mask, num_queries, both)
        if block.video.dual_attention is not None:
            pairs += _pairs(masks.video, video, video)
    elif isinstance(block, TransformerBlock) and block.cross_attention is not None:
        seen = (block.cross_attention.to_k, block.cross_attention.to_v)
        linear = _beside_norm(block, sequence, video) - sum(
            sequence.linear(x, video) - sequence.linear(x, text) for x in seen
        )
        pairs = _pairs(masks.video, video, video) + _pairs(masks.text, video, text)
    else:
        assert isinstance(block, (SingleStreamBlock, TransformerBlock))
        linear, pairs = _beside_norm(block, sequence.joint, both), _pairs(masks.joint, both, both)
    return linear, 4 * config.hidden_size * pairs


def _temporal_block(block: nn.Module, sequence: _Sequence, config: ModelConfig) -> tuple[int, int]:
    pairs = _pairs(sequence.masks.temporal, sequence.video, sequence.video)
    return _beside_norm(block, sequence, sequence.video), 4 * config.hidden_size * pairs


def _beside_norm(module: nn.Module, sequence: _Sequence, tokens: int) -> int:
    """A module's linear layers over its tokens; those of its adaptive norm work on vectors."""
    return (
        sequence.linear(module, tokens)
        - sequence.linear(module.norm, tokens)
        + sequence.linear(module.norm, sequence.vectors)
    )


def _chunked(
    block: nn.Module, sequence: _Sequence, config: ModelConfig, two_streams: bool, temporal: bool = False
) -> int:
    """What the feed-forward layers compute again, chunk by chunk: all but the product that nothing behind it reads."""
    video, text = sequence.video, sequence.text
    if temporal or not (config.joins_text or two_streams):
        lengths = [video]
    elif isinstance(block, JointTransformerBlock):
        split = text if config.text_split is None else config.text_split
        lengths = [video, split, text - split]
    else:
        lengths = [video + text]
    layers = [layer for layer in block.modules() if isinstance(layer, FeedForward)]
    chunk = config.feed_forward_chunk_size
    return sum(
        sequence.linear(layer.linear_in, length)
        for layer, length in zip(layers, lengths, strict=False)
        if chunk is not None and length > chunk
    )
