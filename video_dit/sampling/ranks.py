"""The processes that a launcher started to share the clips between them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")


class Ranks(NamedTuple):
    """This process and how many there are. Without a launcher there is one."""

    rank: int
    num_ranks: int

    @property
    def device(self) -> torch.device:
        """Each has a GPU of its own, where there are some."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's of the items, which are dealt out one by one."""
        return items[self.rank :: self.num_ranks]

    def from_first(self, value: Item) -> Item:
        """Rank 0's value, on every rank."""
        values = [value]
        if self.num_ranks > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: Item) -> list[Item]:
        """The values of all ranks, on rank 0; elsewhere none. Waits until all have come so far."""
        if self.num_ranks == 1:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        dist.gather_object(value, values if self.rank == 0 else None)
        return values if self.rank == 0 else []


@contextmanager
def launched() -> Iterator[Ranks]:
    """Joins the ranks of torchrun or of the deepspeed launcher, which say in the environment who is who."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1:
        yield Ranks(0, 1)
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # a rank with longer clips may be waited for
    try:
        yield Ranks(dist.get_rank(), num_ranks)
    finally:
        dist.destroy_process_group()
