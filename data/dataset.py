"""The order of the samples, and batches of them."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.dataset_info import DatasetInfo, size_problem
from data.shards import Sample, ShardReader
from video_dit.contracts import Batch, ClipInfo, TextCondition, TextSegment
from video_dit.errors import UserError
from video_dit.seeds import derive_seed


class ClipDataset(Dataset[tuple[Sample, int, int]]):
    """All epochs of a folder of shards, one after another: position p is in epoch p // N.

    The order within an epoch is a permutation of the ids that (seed, epoch) alone decide. With each sample comes the
    seed of its draws; that seed, which of its captions it shows and its latents, where the autoencoder has a deviation,
    are decided by (seed, epoch, id) alone. So none of these depends on the ranks, the shards or what was read before.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.info = DatasetInfo.read(folder)
        self.seed = seed
        self._readers: dict[str, ShardReader] = {}
        places = []
        for name, shard in self.info.shards.items():
            if problem := size_problem(folder / name, shard):
                raise UserError(f"{problem}: preprocess again")
            ids = self._reader(name).ids()
            if len(ids) != shard.clips:
                raise UserError(f"{folder / name} holds {len(ids)} clips instead of {shard.clips}: preprocess again")
            places += [(sample_id, name, index) for index, sample_id in enumerate(ids)]
        self._places = sorted(places)
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Clips in one epoch."""
        return len(self._places)

    def order(self, epoch: int) -> list[int]:
        """The places, in the order of the ids, that the epoch visits one after another."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, "order"))
            self._order = epoch, torch.randperm(len(self), generator=generator).tolist()
        return self._order[1]

    def __getitem__(self, position: int) -> tuple[Sample, int, int]:
        """The sample at a position in the order of all epochs, the seed of its draws, and the position."""
        epoch, within = divmod(position, len(self))
        sample_id, shard, index = self._places[self.order(epoch)[within]]
        u = derive_seed(self.seed, epoch, sample_id, "caption") / 2**63
        seed = derive_seed(self.seed, epoch, sample_id)
        return self._reader(shard)[index].show(u, seed), seed, position

    def empty_prompt(self) -> TextCondition:
        """The text encoder's answer to the empty prompt, one row."""
        shown = ShardReader(self.folder / "empty_prompt.arrow")[0].show(0.0, 0)
        return TextCondition(*(tensor[None] for tensor in shown.text))

    def text_segments(self) -> tuple[TextSegment, ...]:
        """Which part of the text is which encoder's."""
        return self.info.encoded.segments

    def example_prompts(self) -> list[str]:
        return (self.folder / "example_prompts.txt").read_text(encoding="utf-8").splitlines()

    def _reader(self, name: str) -> ShardReader:
        if name not in self._readers:
            self._readers[name] = ShardReader(self.folder / name)
        return self._readers[name]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_readers": {}}  # a process that is spawned opens its own memory maps


def micro_batch_positions(
    rank: int, num_ranks: int, micro_batch_size: int, batch_size: int, first_step: int
) -> Iterator[list[int]]:
    """The positions of a rank's micro-batches, from `first_step` on, without end.

    Step s takes positions s * batch_size to (s + 1) * batch_size; the ranks take micro-batches of them in turn.
    """
    start = first_step * batch_size + rank * micro_batch_size
    while True:
        yield list(range(start, start + micro_batch_size))
        start += num_ranks * micro_batch_size


def load_batches(dataset: ClipDataset, positions: Iterator[list[int]], num_workers: int) -> Iterator[Batch]:
    """Batches at these positions; with `num_workers` processes they are read ahead."""
    return iter(DataLoader(dataset, batch_sampler=_Endless(positions), collate_fn=collate, num_workers=num_workers))


def load_once(
    dataset: ClipDataset, num_clips: int, rank: int, num_ranks: int, batch_size: int
) -> Iterator[tuple[Batch, Tensor]]:
    """This rank's share of the first clips in the order of their ids, in as many batches on every rank.

    Args:
        dataset: with its seed come the seeds of the draws, those of epoch 0.
        num_clips: at most so many.
        rank, num_ranks: the share.
        batch_size: at most so many at a time.

    Yields:
        a batch, and [B] bool, false on rows that only fill it.
    """
    places = sorted(range(len(dataset)), key=dataset.order(0).__getitem__)[:num_clips]
    of_rank = range(rank, -(-len(places) // num_ranks) * num_ranks, num_ranks)
    for start in range(0, len(of_rank), batch_size):
        indices = of_rank[start : start + batch_size]
        batch = collate([dataset[places[min(index, len(places) - 1)]] for index in indices])
        yield batch, torch.tensor([index < len(places) for index in indices])


class _Endless:
    """An iterator as the batch sampler that DataLoader wants."""

    def __init__(self, positions: Iterator[list[int]]) -> None:
        self._positions = positions

    def __iter__(self) -> Iterator[list[int]]:
        return self._positions


def collate(items: list[tuple[Sample, int, int]]) -> Batch:
    samples, seeds, positions = zip(*items, strict=True)
    return Batch(
        torch.stack([sample.latents for sample in samples]),
        TextCondition(*map(torch.stack, zip(*(sample.text for sample in samples), strict=True))),
        ClipInfo(*map(torch.stack, zip(*(sample.clip for sample in samples), strict=True))),
        torch.tensor(seeds),
        torch.tensor(positions),
    )
