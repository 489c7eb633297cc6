"""MM-DiT: joint transformer blocks in a row (Esser et al. 2024, arXiv 2403.03206, figure 2a)."""

from torch import nn

from video_dit.config import ModelConfig
from video_dit.models.backbone import Backbone, State
from video_dit.models.context import Context
from video_dit.models.joint_blocks import JointTransformerBlock, SingleStreamBlock
from video_dit.models.transformer_block import run, temporal_blocks


class MMDiT(Backbone):
    """Blocks of two streams, then of one where the config asks for them; the last of two is `context_pre_only` if it
    is the last of all. Under the factorised pattern each is followed by a block through time, which starts as the
    identity."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_joint = config.depth - config.single_stream_blocks
        self.num_recomputed = config.recompute_blocks
        self.blocks = nn.ModuleList(
            JointTransformerBlock(
                config,
                context_pre_only=index == config.depth - 1,
                use_dual_attention=index in config.dual_attention_blocks,
            )
            if index < num_joint
            else SingleStreamBlock(config)
            for index in range(config.depth)
        )
        self.temporal_blocks = temporal_blocks(config)

    def run_block(self, index: int, state: State, context: Context) -> State:
        recompute = index < self.num_recomputed
        video, text = run(self.blocks[index], recompute, *state, context)
        if self.temporal_blocks:
            shared = (context.rotary, context.backend, context.shard)
            through_time = (context.video_conditioning, context.masks.temporal, *shared)
            video = run(self.temporal_blocks[index], recompute, video, *through_time)
        return video, text
