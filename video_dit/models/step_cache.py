"""Skipping blocks whose work would hardly differ from that of an earlier step of the solver."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from video_dit.models.backbone import Backbone
from video_dit.models.context import Context
from video_dit.ops.attention import AttentionMask
from video_dit.ops.normalization import Conditioning


class _Memory(NamedTuple):
    """Of the last step in which each clip went through all blocks, [B, V, D] each.

    of_first: what the first block added to the video.
    of_others: what all others added.
    """

    of_first: Tensor
    of_others: Tensor


class StepCache(nn.Module):
    """A backbone whose first block decides whether the others run.

    If what the first block adds to a clip is near what it added when the clip last went through all blocks, then what
    the others added at that time is added again. Near means that the mean absolute difference is less than `threshold`
    times the mean absolute value. That neighbouring steps can stand for each other, and that a cheap part of the
    network tells when, is TeaCache's finding (Liu et al. 2024, arXiv 2411.19108); to let the first block tell it is
    ParaAttention's first-block cache. Each clip decides for itself, so that none depends on its batch.

    Args:
        backbone: what runs.

    Attributes:
        threshold: 0 runs everything.
        num_seen, num_skipped: clips so far, counted in each forward pass, and those that skipped the other blocks.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.threshold = 0.0
        self.num_seen = self.num_skipped = 0
        self._memories: dict[int, tuple[object, _Memory | None]] = {}
        self._asker: object = None

    def start(self, threshold: float) -> None:
        """Forgets all, for a new batch of clips."""
        self.threshold = threshold
        self._memories.clear()

    def asked_by(self, asker: object) -> None:
        """Says for whom the next forward pass is: the answers to two prompts have memories of their own."""
        self._asker = asker

    def forward(self, video: Tensor, text: Tensor, context: Context) -> Tensor:
        """See `Backbone`."""
        if self.threshold == 0:
            return self.backbone(video, text, context)
        state = self.backbone.run_block(0, (video, text), context)
        of_first = state[0] - video
        _, memory = self._memories.get(id(self._asker), (None, None))
        rows = self._changed(of_first, memory).nonzero().flatten()
        self.num_seen += len(video)
        self.num_skipped += len(video) - len(rows)

        output = state[0] if memory is None else state[0] + memory.of_others
        if len(rows):
            others = range(1, len(self.backbone.blocks))
            their_context = context if len(rows) == len(video) else _rows(context, rows)
            run = self.backbone.run_blocks(others, tuple(x[rows] for x in state), their_context)[0]
            output = output.index_copy(0, rows, run)
            of_others = run - state[0][rows]
            if memory is not None:
                of_first = memory.of_first.index_copy(0, rows, of_first[rows])
                of_others = memory.of_others.index_copy(0, rows, of_others)
            self._memories[id(self._asker)] = (self._asker, _Memory(of_first, of_others))
        return output

    def _changed(self, of_first: Tensor, memory: _Memory | None) -> Tensor:
        """[B] bool: clips that have to go through all blocks."""
        if memory is None:
            return of_first.new_ones(len(of_first), dtype=torch.bool)
        difference = (of_first - memory.of_first).abs().flatten(1).mean(1)
        return difference >= self.threshold * memory.of_first.abs().flatten(1).mean(1)


def _rows(context: Context, rows: Tensor) -> Context:
    """The context of some clips of a batch."""

    def of_mask(mask: AttentionMask | None) -> AttentionMask | None:
        return mask and (mask if mask.padding is None else AttentionMask(mask.padding[rows], mask.groups))

    def of_conditioning(conditioning: Conditioning) -> Conditioning:
        return conditioning._replace(vectors=conditioning.vectors[rows])

    rotary = context.rotary
    if rotary is not None and rotary[0].ndim == 3:
        rotary = (rotary[0][rows], rotary[1][rows])
    return context._replace(
        video_conditioning=of_conditioning(context.video_conditioning),
        text_conditioning=of_conditioning(context.text_conditioning),
        masks=type(context.masks)(*map(of_mask, context.masks)),
        rotary=rotary,
    )
