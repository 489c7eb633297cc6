"""U-ViT: everything is a token, and long skip connections join the two halves (Bao et al. 2022, arXiv 2209.12152)."""

import torch
from torch import nn

from video_dit.config import ModelConfig
from video_dit.models.backbone import Backbone, State
from video_dit.models.context import Context
from video_dit.models.transformer_block import TransformerBlock, run
from video_dit.ops.linear import Linear
from video_dit.ops.normalization import LayerNorms


class UViT(Backbone):
    """The output of each block of the first half is concatenated, channel by channel, to the input of its mirror image
    in the second half, and a linear layer brings both back to D."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_recomputed = config.recompute_blocks
        self.num_skips = config.depth // 2
        self.blocks = nn.ModuleList(TransformerBlock(config, LayerNorms) for _ in range(config.depth))
        self.skips = nn.ModuleList(Linear(2 * config.hidden_size, config.hidden_size) for _ in range(self.num_skips))

    def run_block(self, index: int, state: State, context: Context) -> State:
        """Behind video and text, the state holds the outputs that wait for their mirror images."""
        video, text, *waiting = state
        x = torch.cat((video, text), dim=1)
        first_skip = len(self.blocks) - self.num_skips
        if index >= first_skip:
            x = self.skips[index - first_skip](torch.cat((x, waiting.pop()), dim=-1))
        shared = (context.joint_conditioning, context.masks.joint, context.rotary, context.backend, context.shard)
        x = run(self.blocks[index], index < self.num_recomputed, x, *shared)
        if index < self.num_skips:
            waiting.append(x)
        return x[:, : video.shape[1]], x[:, video.shape[1] :], *waiting
