"""Video tokens sharded over ranks, text on all of them, and attention by heads.

Every rank has a part of the video's tokens, and does with it all that is done token by token. For attention the ranks
exchange: each gets some of the heads, of all tokens, and gives back what they found. The text is short: every rank has
all of it, gives the heads that it computes, and is given what the others' heads found.

Gradients. All ranks of a group end with the same output, and so the same loss, of which DeepSpeed takes the mean over
all ranks. Backward, each operation here adds up what the ranks made of its output. So a rank's gradients are its part
of those of the sum of the ranks' losses, of which there are as many as ranks in the group; and their mean over the
ranks is the gradient of the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def even_split(total: int, num_parts: int) -> list[int]:
    """Sizes that add up and differ by one at most, the larger first."""
    return [total // num_parts + (index < total % num_parts) for index in range(num_parts)]


@dataclass(frozen=True)
class SequenceGroup:
    """Ranks that share sequences.

    group: of torch.distributed; None: all ranks.
    rank, size: this one in it, and how many.
    """

    group: Any
    rank: int
    size: int

    def shard(self, num_tokens: int) -> "Shard":
        """How a video of so many tokens is shared."""
        return Shard(self, tuple(even_split(num_tokens, self.size)))

    def all_to_all(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Sends each rank its part, and gives what the ranks sent, which has these shapes."""
        sent = torch.cat([part.reshape(-1) for part in parts])
        numels = [torch.Size(shape).numel() for shape in shapes]
        received = sent.new_empty(sum(numels))
        self._send(received, sent, numels, [part.numel() for part in parts])
        return [part.view(torch.Size(shape)) for part, shape in zip(received.split(numels), shapes, strict=True)]

    def _send(self, received: Tensor, sent: Tensor, received_numels: list[int], sent_numels: list[int]) -> None:
        dist.all_to_all_single(received, sent, received_numels, sent_numels, group=self.group)


class ShapesOnly(SequenceGroup):
    """Sends nothing: to see what memory a rank would need."""

    def _send(self, received: Tensor, sent: Tensor, received_numels: list[int], sent_numels: list[int]) -> None:
        pass


@dataclass(frozen=True)
class Shard:
    """A video's tokens on the ranks of a group: contiguous parts, in the order of the ranks.

    lengths: of each rank's part.
    """

    group: SequenceGroup
    lengths: tuple[int, ...]

    @property
    def num_local(self) -> int:
        """Tokens of this rank."""
        return self.lengths[self.group.rank]

    @property
    def part(self) -> slice:
        """This rank's tokens, among all."""
        start = sum(self.lengths[: self.group.rank])
        return slice(start, start + self.num_local)

    def to_heads(self, x: Tensor) -> Tensor:
        """[B, N, V' + L, K], this rank's video tokens and the text, to [B, N', V + L, K], all tokens of its heads."""
        video, text = x[:, :, : self.num_local], x[:, :, self.num_local :]
        heads = even_split(x.shape[1], self.group.size)
        first = sum(heads[: self.group.rank])
        own_heads = text[:, first : first + heads[self.group.rank]]
        return torch.cat((_Exchange.apply(video, self, True, x.shape[1]), own_heads), dim=2)

    def to_tokens(self, x: Tensor, num_heads: int) -> Tensor:
        """The inverse: [B, N', V + L, K] of this rank's heads to [B, N, V' + L, K] of its tokens."""
        num_video = sum(self.lengths)
        video, text = x[:, :, :num_video], x[:, :, num_video:]
        video = _Exchange.apply(video, self, False, num_heads)
        if text.shape[2] == 0:
            return video
        return torch.cat((video, _Gather.apply(text, self.group, 1, even_split(num_heads, self.group.size))), dim=2)

    def gather(self, x: Tensor) -> Tensor:
        """[B, V', ...] of this rank's tokens to [B, V, ...] of all."""
        return _Gather.apply(x, self.group, 1, self.lengths)


class _Exchange(torch.autograd.Function):
    """Tokens for heads, or heads for tokens; each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard, to_heads: bool, num_heads: int) -> Tensor:
        ctx.arguments = shard, to_heads, num_heads
        heads = even_split(num_heads, shard.group.size)
        cut, joined = (1, 2) if to_heads else (2, 1)
        sent, received = (heads, shard.lengths) if to_heads else (shard.lengths, heads)
        mine = heads[shard.group.rank] if to_heads else shard.num_local
        shapes = [list(x.shape) for _ in received]
        for shape, length in zip(shapes, received, strict=True):
            shape[cut], shape[joined] = mine, length
        return torch.cat(shard.group.all_to_all(x.split(list(sent), dim=cut), shapes), dim=joined)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        shard, to_heads, num_heads = ctx.arguments
        return _Exchange.apply(gradient, shard, not to_heads, num_heads), None, None, None


class _Gather(torch.autograd.Function):
    """The ranks' parts, one after another; each gets back the sum of what the ranks made of its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: SequenceGroup, dim: int, lengths: Sequence[int]) -> Tensor:
        ctx.arguments = group, dim, lengths
        shapes = [[*x.shape[:dim], length, *x.shape[dim + 1 :]] for length in lengths]
        return torch.cat(group.all_to_all([x] * group.size, shapes), dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        group, dim, lengths = ctx.arguments
        parts = gradient.split(list(lengths), dim=dim)
        shape = list(parts[group.rank].shape)
        return torch.stack(group.all_to_all(parts, [shape] * group.size)).sum(0), None, None, None
