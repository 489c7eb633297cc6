"""What all backbones are: blocks in a row over video and text tokens."""

import torch
from torch import Tensor, nn

from video_dit.models.context import Context

State = tuple[Tensor, ...]
"""What goes from block to block: video [B, V, D], text [B, L, D], and whatever else a backbone hands on, [B, ...]."""


MAX_COMPILED = 128
"""Of blocks' forward passes: each kind of block, with and without a mask or gradients, until no size is fixed any more.
PyTorch's own limit of 8 is reached by the second shape of clips; what comes after would not be compiled."""


class Backbone(nn.Module):
    """Runs its `blocks` one after another. A subclass makes them and says in `run_block` what one does.

    Attributes:
        blocks: in their order.
        temporal_blocks: those that follow them through time, one each, or none.
    """

    blocks: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.temporal_blocks = nn.ModuleList()

    @property
    def all_blocks(self) -> list[nn.Module]:
        return [*self.blocks, *self.temporal_blocks]

    def compile_blocks(self) -> None:
        """Hands each block's forward pass to torch.compile; not its hooks, as `block.compile()` would.

        On a CPU GELU's tanh is made of an exponential, which takes 40% off GELU and its gradient. It is rounded to 1e-7
        however small it is, which is of no account where GELU adds 1 to it.
        """
        for block in self.all_blocks:
            block.forward = torch.compile(
                block.forward, options={"cpp.use_decompose_tanh": True}, recompile_limit=MAX_COMPILED
            )

    def forward(self, video: Tensor, text: Tensor, context: Context) -> Tensor:
        """
        Args:
            video: [B, V, D].
            text: [B, L, D].
            context: conditioning, masks and positions.

        Returns:
            the video [B, V, D].
        """
        return self.run_blocks(range(len(self.blocks)), (video, text), context)[0]

    def run_blocks(self, indices: range, state: State, context: Context) -> State:
        """The state after some of the blocks."""
        for index in indices:
            state = self.run_block(index, state, context)
        return state

    def run_block(self, index: int, state: State, context: Context) -> State:
        """The state after one block."""
        raise NotImplementedError
