"""DiT with its four conditionings, and CrossDiT.

Peebles and Xie 2022, arXiv 2212.09748, section 3.2; Esser et al. 2024, arXiv 2403.03206, section 5.2.

| | the text | timestep and pooled text |
|---|---|---|
| in_context | in the sequence | two more tokens of it |
| cross_attention | seen through cross-attention | two more tokens there |
| adaln | in the sequence | shift and scale |
| adaln_zero | in the sequence | shift, scale and gate |
| CrossDiT | seen through cross-attention | shift, scale and gate |
"""

import torch
from torch import nn

from video_dit.config import ModelConfig
from video_dit.models.backbone import Backbone, State
from video_dit.models.context import Context
from video_dit.models.transformer_block import TransformerBlock, run, temporal_blocks
from video_dit.ops.normalization import AdaLayerNorm, AdaLayerNormZero, LayerNorms


class DiT(Backbone):
    """One stream of weights for all tokens of the sequence, which holds the text or looks at it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        norms = AdaLayerNormZero if config.has_adaptive_norms else LayerNorms
        if config.name == "dit" and config.dit_conditioning == "adaln":
            norms = AdaLayerNorm
        self.joins_text = config.joins_text
        self.num_recomputed = config.recompute_blocks
        self.blocks = nn.ModuleList(
            TransformerBlock(config, norms, cross_attention=not config.joins_text) for _ in range(config.depth)
        )
        self.temporal_blocks = temporal_blocks(config, norms)

    def run_block(self, index: int, state: State, context: Context) -> State:
        video, text = state
        recompute = index < self.num_recomputed
        shared = (context.rotary, context.backend, context.shard)
        if self.joins_text:
            x = torch.cat((video, text), dim=1)
            x = run(self.blocks[index], recompute, x, context.joint_conditioning, context.masks.joint, *shared)
            video, text = x[:, : video.shape[1]], x[:, video.shape[1] :]
        else:
            seen = (text, context.masks.text)
            conditioning, mask = context.video_conditioning, context.masks.video
            video = run(self.blocks[index], recompute, video, conditioning, mask, *shared, *seen)
        if self.temporal_blocks:
            through_time = (context.video_conditioning, context.masks.temporal, *shared)
            video = run(self.temporal_blocks[index], recompute, video, *through_time)
        return video, text
