"""U-ViT: everything is a token, and long skip connections join the two halves (Bao et al. 2022, arXiv 2209.12152)."""

import torch
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.models.context import Context
from video_dit.models.transformer_block import TransformerBlock, run
from video_dit.ops.normalization import LayerNorms


class UViT(nn.Module):
    """The output of each block of the first half is concatenated, channel by channel, to the input of its mirror image
    in the second half, and a linear layer brings both back to D."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_recomputed = config.recompute_blocks
        self.num_skips = config.depth // 2
        self.blocks = nn.ModuleList(TransformerBlock(config, LayerNorms) for _ in range(config.depth))
        self.skips = nn.ModuleList(nn.Linear(2 * config.hidden_size, config.hidden_size) for _ in range(self.num_skips))

    def forward(self, video: Tensor, text: Tensor, context: Context) -> Tensor:
        """video [B, V, D] and text [B, L, D], which holds the conditioning, to video [B, V, D]; see `MMDiT`."""
        x = torch.cat((video, text), dim=1)
        shared = (context.joint_conditioning, context.masks.joint, context.rotary, context.backend)
        first_half: list[Tensor] = []
        first_skip = len(self.blocks) - self.num_skips
        for index, block in enumerate(self.blocks):
            if index >= first_skip:
                x = self.skips[index - first_skip](torch.cat((x, first_half.pop()), dim=-1))
            x = run(block, index < self.num_recomputed, x, *shared)
            if index < self.num_skips:
                first_half.append(x)
        return x[:, : video.shape[1]]
