"""Near-duplicates across a data set, by perceptual hashes of several frames of each clip."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

HASH_BITS = 64


class Nearest(NamedTuple):
    """The clip before this one that is most like it: its index, and the share of differing bits."""

    index: int
    difference: float


def find_duplicates(clips: Sequence[tuple[int, ...]], min_difference: float) -> list[Nearest | None]:
    """For each clip, the nearest one before it that is no duplicate itself, if it differs by less.

    Two clips whose hashes differ by less than this share on average have a pair of hashes, of frames at the same place,
    which differ by less too. Hashes that differ in at most k bits agree in one of k + 1 bands of their bits, so only
    clips that share a band of a frame are compared, and none is missed.

    Args:
        clips: for each, the 64-bit hashes of its frames; only clips with as many of them are compared.
        min_difference: in [0, 1].
    """
    most_bits = int(np.ceil(min_difference * HASH_BITS)) - 1  # fewer than the share says
    nearest: list[Nearest | None] = [None] * len(clips)
    if most_bits < 0:
        return nearest
    edges = np.linspace(0, HASH_BITS, min(most_bits + 1, HASH_BITS) + 1).astype(int)
    bands = [(int(start), (1 << int(stop - start)) - 1) for start, stop in pairwise(edges)]
    seen: dict[tuple[int, int, int, int], list[int]] = defaultdict(list)
    for index, hashes in enumerate(clips):
        keys = [
            (len(hashes), place, start, value >> start & mask)
            for place, value in enumerate(hashes)
            for start, mask in bands
        ]
        candidates = sorted({other for key in keys for other in seen.get(key, ())})
        if candidates:
            others = np.array([clips[other] for other in candidates], dtype=np.uint64)
            bits = np.bitwise_count(others ^ np.array(hashes, dtype=np.uint64)).sum(1)
            best = int(bits.argmin())
            difference = float(bits[best]) / (HASH_BITS * len(hashes))
            if difference < min_difference:
                nearest[index] = Nearest(candidates[best], difference)
                continue
        for key in keys:
            seen[key].append(index)
    return nearest
