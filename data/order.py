"""Which clips a step shows: a function of the seed and the step alone, whoever computes it and from where on."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from typing import NamedTuple

import numpy as np

from video_dit.seeds import derive_seed

_ONE = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's fractional part in 64 bits; odd, so that its multiples visit every number once."""

_CHUNK = 1 << 20


class Position(NamedTuple):
    """A place in the order of all epochs of a bucket, which is given by its index."""

    bucket: int
    index: int


class Schedule:
    """From which bucket each step takes its batch.

    A bucket's share of the steps is that of its clips. Step s is at u0 + s * golden ratio, modulo 1, and each bucket
    owns an interval as long as its share. Such a sequence has low discrepancy (Niederreiter 1992, chapter 3): after any
    number of steps each bucket has had its share of them but for a few, and no state is needed to say what a step
    takes. It is computed in whole numbers, hence the same on every machine.

    Args:
        counts: the clips of each bucket.
        seed: of the run.
    """

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        total = sum(counts)
        self._first = derive_seed(seed, "buckets")
        self._ends = [end * _ONE // total for end in accumulate(counts)][:-1]

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


def micro_batch_positions(
    schedule: Schedule, rank: int, num_ranks: int, micro_batch_size: int, batch_size: int, first_step: int
) -> Iterator[list[Position]]:
    """The positions of a rank's micro-batches, from `first_step` on, without end.

    The n-th step of a bucket takes its positions n * batch_size to (n + 1) * batch_size; the ranks take micro-batches
    of them in turn.
    """
    taken: dict[int, int] = {}
    for step in count(first_step):
        bucket = schedule.bucket(step)
        if bucket not in taken:
            taken[bucket] = schedule.steps_before(step, bucket)
        start = taken[bucket] * batch_size
        taken[bucket] += 1
        for first in range(start + rank * micro_batch_size, start + batch_size, num_ranks * micro_batch_size):
            yield [Position(bucket, index) for index in range(first, first + micro_batch_size)]
