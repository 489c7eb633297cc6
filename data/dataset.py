"""Clips out of shards, and batches of them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import nsmallest
from pathlib import Path
from typing import NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.dataset_info import Bucket, DatasetInfo, size_problem
from data.forkserver import start_forkserver
from data.on_the_fly import FrameBatch
from data.order import Position
from data.probe import VideoError, probe
from data.shards import Cut, Sample, ShardReader
from data.storage import as_file
from data.video import read_clips
from video_dit.config import DataConfig
from video_dit.contracts import Batch, ClipInfo, TextCondition, TextSegment
from video_dit.errors import RankError, UserError
from video_dit.seeds import derive_seed

MAX_REPLACEMENTS = 100
"""Clips in a row that cannot be decoded; more than that are no accident."""


class Item(NamedTuple):
    """A sample and the seed of its draws.

    place: where it stands in the batch of its step, and how many samples that has.
    frames: uint8 [F, H, W, 3], where shards hold videos; None too if neither this clip nor others can be decoded.
    problems: files that could not be decoded, each with what is wrong; the sample stands in the place of theirs.
    """

    sample: Sample
    seed: int
    place: tuple[int, int]
    frames: Tensor | None = None
    problems: tuple[tuple[str, str], ...] = ()


class ClipDataset(Dataset[Item]):
    """All epochs of each bucket of a folder of shards, one after another: index i of N clips is in epoch i // N.

    The order within an epoch is a permutation of the ids that (seed, epoch) alone decide. With each sample comes the
    seed of its draws; that seed, which of its captions it shows and its latents, where the autoencoder has a deviation,
    are decided by (seed, epoch, id) alone. So none of these depends on the ranks, the shards or what was read before.
    Where shards hold videos, a clip that cannot be decoded is replaced by one that (seed, epoch, id) decides, or where
    that one cannot be either, by the next.

    Attributes:
        info: what the folder holds.
        buckets: the shapes of its clips; a `Position` counts in this order.
        counts: the clips of each bucket.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.info = DatasetInfo.read(folder)
        self.seed = seed
        self._data = DataConfig(**self.info.tables["data"])
        self._readers: dict[str, ShardReader] = {}
        places: dict[str, list[tuple[str, str, int]]] = {name: [] for name in sorted(self.info.buckets)}
        for name, shard in self.info.shards.items():
            if problem := size_problem(folder / name, shard):
                raise UserError(f"{problem}: preprocess again")
            ids = self._reader(name).ids()
            if len(ids) != shard.clips:
                raise UserError(
                    f"{folder / name} holds {len(ids)} clips instead of {shard.clips}: delete it, and preprocess again"
                )
            places[shard.bucket] += [(sample_id, name, index) for index, sample_id in enumerate(ids)]
        self._places = [sorted(of_bucket) for of_bucket in places.values()]
        self._orders: dict[int, tuple[int, NDArray]] = {}
        self.buckets: list[Bucket] = [self.info.buckets[name] for name in places]
        self.counts = [len(of_bucket) for of_bucket in self._places]

    def __len__(self) -> int:
        """Clips in one epoch, of all buckets."""
        return sum(self.counts)

    def order(self, bucket: int, epoch: int) -> NDArray:
        """The places, in the order of the ids, that the epoch of a bucket visits one after another."""
        if bucket not in self._orders or self._orders[bucket][0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, "order"))
            self._orders[bucket] = epoch, torch.randperm(self.counts[bucket], generator=generator).numpy()
        return self._orders[bucket][1]

    def __getitem__(self, position: Position) -> Item:
        """The sample at a position."""
        bucket, index, batch_size = position
        place_in_step = index % batch_size, batch_size
        epoch, within = divmod(index, self.counts[bucket])
        place = self._places[bucket][self.order(bucket, epoch)[within]]
        draws = derive_seed(self.seed, epoch, place[0])
        u = derive_seed(self.seed, epoch, place[0], "caption") / 2**63
        problems: list[tuple[str, str]] = []
        while True:
            _, shard, row = place
            sample = self._reader(shard)[row].show(u, draws)
            if sample.cut is None or len(problems) > MAX_REPLACEMENTS:
                return Item(sample, draws, place_in_step, None, tuple(problems))
            try:
                return Item(sample, draws, place_in_step, self._decode(sample.cut, bucket), tuple(problems))
            except VideoError as error:
                problems.append((sample.cut.place.location, str(error)))
            other = derive_seed(draws, "replacement", len(problems)) % self.counts[bucket]
            place = self._places[bucket][other]

    def _decode(self, cut: Cut, bucket: int) -> Tensor:
        """uint8 [F, H, W, 3].

        Raises:
            VideoError: it cannot be decoded.
        """
        with as_file(cut.place) as path:
            info = probe(path, self._data.limits)
            _, window = next(read_clips(path, info, [cut.start], self.buckets[bucket].pixels, self._data))
        return torch.from_numpy(window.frames)

    def first(self, num_clips: int) -> list[list[Position]]:
        """Where the first clips in the order of their ids are in epoch 0; by bucket, at most so many in all."""
        ids = nsmallest(num_clips, ((place, bucket) for bucket, places in enumerate(self._places) for place in places))
        found: list[list[Position]] = []
        for bucket in range(len(self.buckets)):
            visited_at = self.order(bucket, 0).argsort().tolist()
            number = sum(other == bucket for _, other in ids)
            found.append([Position(bucket, index) for index in visited_at[:number]])
        return found

    def empty_prompt(self) -> TextCondition:
        """The text encoder's answer to the empty prompt, one row."""
        shown = ShardReader(self.folder / self.info.empty_prompt)[0].show(0.0, 0)
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


def load_batches(
    dataset: ClipDataset, positions: Iterator[list[Position]], num_workers: int
) -> Iterator[Batch | FrameBatch]:
    """Batches at these positions; with `num_workers` processes they are read ahead. Of frames, for shards of videos.

    They are no copies of this process, which could wait for ever for what its threads held.
    """
    if num_workers:
        start_forkserver("data", "video_dit")
    loader = DataLoader(
        dataset, batch_sampler=_Endless(positions), collate_fn=collate, num_workers=num_workers,
        multiprocessing_context="forkserver" if num_workers else None, worker_init_fn=_leave_signals_to_the_rank,
    )  # fmt: skip
    return _told_of_deaths(iter(loader))


def _told_of_deaths(batches: Iterator[Batch | FrameBatch]) -> Iterator[Batch | FrameBatch]:
    """A reader that ends breaks the connections by which its batches come; then PyTorch says that it ended."""
    while True:
        try:
            batch = next(batches, None)
        except (ConnectionError, EOFError):
            continue
        if batch is None:
            return
        yield batch


def _leave_signals_to_the_rank(_: int) -> None:
    """Who stops a run signals all its processes, and the rank still has a step to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def lost_readers_told(rank: int) -> Iterator[None]:
    """
    Raises:
        RankError: one of the processes that `load_batches` started has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # others are errors in one that lives
            raise
        raise RankError(
            f"a process that reads data for rank {rank} has ended: {str(error).strip().splitlines()[0]} If memory is "
            "short, lower training.num_workers; the same command goes on from the last checkpoint"
        ) from error


def load_once(
    dataset: ClipDataset, num_clips: int, rank: int, num_ranks: int, batch_size: int
) -> Iterator[tuple[Batch | FrameBatch, Tensor]]:
    """This rank's share of the first clips in the order of their ids, in as many batches of one shape on every rank.

    Args:
        dataset: with its seed come the seeds of the draws, those of epoch 0.
        num_clips: at most so many.
        rank, num_ranks: the share.
        batch_size: at most so many at a time.

    Yields:
        a batch, and [B] bool, false on rows that only fill it.
    """
    for positions in dataset.first(num_clips):
        of_rank = range(rank, -(-len(positions) // num_ranks) * num_ranks, num_ranks)
        for start in range(0, len(of_rank), batch_size):
            indices = of_rank[start : start + batch_size]
            batch = collate([dataset[positions[min(index, len(positions) - 1)]] for index in indices])
            yield batch, torch.tensor([index < len(positions) for index in indices])


class _Endless:
    """An iterator as the batch sampler that DataLoader wants."""

    def __init__(self, positions: Iterator[list[Position]]) -> None:
        self._positions = positions

    def __iter__(self) -> Iterator[list[Position]]:
        return self._positions


def collate(items: list[Item]) -> Batch | FrameBatch:
    text = TextCondition(*map(torch.stack, zip(*(item.sample.text for item in items), strict=True)))
    clip = ClipInfo(*map(torch.stack, zip(*(item.sample.clip for item in items), strict=True)))
    seeds = torch.tensor([item.seed for item in items])
    places = torch.tensor([item.place for item in items])
    rest = text, clip, seeds, places, tuple(item.sample.id for item in items)
    latents = [item.sample.latents for item in items if item.sample.latents is not None]
    if latents:
        return Batch(torch.stack(latents), *rest)
    frames = [item.frames for item in items if item.frames is not None]
    problems = tuple(problem for item in items for problem in item.problems)
    return FrameBatch(torch.stack(frames) if len(frames) == len(items) else None, *rest, problems)
