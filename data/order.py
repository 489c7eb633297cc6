"""Which clips a step shows: a function of the seed and the step alone, whoever computes it and from where on."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, count
from typing import NamedTuple

import numpy as np

from video_dit.seeds import derive_seed

_ONE = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's fractional part in 64 bits; odd, so that its multiples visit every number once."""

_CHUNK = 1 << 20


class Position(NamedTuple):
    """A place in the order of all epochs of a bucket.

    bucket: its index.
    index: of the place.
    batch_size: samples of the step that shows it.
    """

    bucket: int
    index: int
    batch_size: int = 1


class Schedule:
    """From which bucket each step takes its batch.

    A bucket's share of the steps is that of its clips times their weight, over the size of its batches. Step s is at
    u0 + s * golden ratio, modulo 1, and each bucket owns an interval as long as its share. Such a sequence has low
    discrepancy (Niederreiter 1992, chapter 3): after any number of steps each bucket has had its share of them but for
    a few, and no state is needed to say what a step takes. It is computed in whole numbers, hence the same on every
    machine.

    Args:
        counts: the clips of each bucket.
        seed: of the run.
        multiples: how many times as large its batches are as those of the largest clips; without: once.
        weights: how often its clips are shown, against those of others; without: as often.
    """

    def __init__(
        self,
        counts: Sequence[int],
        seed: int,
        multiples: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.multiples = multiples or [1] * len(counts)
        exact = [Fraction(weight).limit_denominator(1_000_000) for weight in weights or [1] * len(counts)]
        shares = [number * weight / size for number, weight, size in zip(counts, exact, self.multiples, strict=True)]
        self._first = derive_seed(seed, "buckets")
        self._ends = [int(end * _ONE / sum(shares)) for end in accumulate(shares)][:-1]

    def bucket(self, step: int) -> int:
        """The bucket of a step."""
        return bisect_right(self._ends, (self._first + step * _GOLDEN) % _ONE)

    def steps_before(self, step: int, bucket: int) -> int:
        """How many of the steps before this one are of a bucket. A million steps take some milliseconds."""
        number = 0
        ends = np.array(self._ends, dtype=np.uint64)
        for start in range(0, step, _CHUNK):
            steps = np.arange(start, min(start + _CHUNK, step), dtype=np.uint64)
            places = steps * np.uint64(_GOLDEN) + np.uint64(self._first)  # modulo 2^64, as unsigned numbers are
            number += int(np.count_nonzero(np.searchsorted(ends, places, side="right") == bucket))
        return number


def batch_multiples(tokens: Sequence[int], by_tokens: bool) -> list[int]:
    """How many times as many samples a batch of each bucket has as one of the largest clips: what their tokens allow.

    Args:
        tokens: of a sample of each bucket.
        by_tokens: whether batches are filled so, or all have as many samples.
    """
    return [max(tokens) // number if by_tokens else 1 for number in tokens]


def micro_batch_positions(
    schedule: Schedule, rank: int, num_ranks: int, micro_batch_size: int, batch_size: int, first_step: int
) -> Iterator[list[Position]]:
    """The positions of a rank's micro-batches, from `first_step` on, without end.

    The n-th step of a bucket takes its positions n * batch_size to (n + 1) * batch_size, where the sizes of batches and
    micro-batches are those given times the bucket's multiple; the ranks take micro-batches of them in turn.
    """
    taken: dict[int, int] = {}
    for step in count(first_step):
        bucket = schedule.bucket(step)
        if bucket not in taken:
            taken[bucket] = schedule.steps_before(step, bucket)
        micro, size = (schedule.multiples[bucket] * each for each in (micro_batch_size, batch_size))
        start = taken[bucket] * size
        taken[bucket] += 1
        for first in range(start + rank * micro, start + size, num_ranks * micro):
            yield [Position(bucket, index, size) for index in range(first, first + micro)]
