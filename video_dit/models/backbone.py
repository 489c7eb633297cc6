"""What all backbones are: blocks in a row over video and text tokens."""

from torch import Tensor, nn

from video_dit.models.context import Context

State = tuple[Tensor, ...]
"""What goes from block to block: video [B, V, D], text [B, L, D], and whatever else a backbone hands on, [B, ...]."""


class Backbone(nn.Module):
    """Runs its `blocks` one after another. A subclass makes them and says in `run_block` what one does."""

    blocks: nn.ModuleList

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
