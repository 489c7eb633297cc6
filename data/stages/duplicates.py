"""Near-duplicates across a data set, by perceptual hashes of several frames of each clip."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64


class Nearest(NamedTuple):
    """The clip before this one that is most like it: its index, and the share of differing bits."""

    index: int
    difference: float


def find_duplicates(clips: Sequence[tuple[int, ...]], min_difference: float) -> list[Nearest | None]:
    """For each clip, the nearest one before it that is no duplicate itself, if it differs by less.

    Args:
        clips: for each, the 64-bit hashes of its frames; only clips with as many of them are compared.
        min_difference: in [0, 1].
    """
    alike: dict[int, list[int]] = defaultdict(list)
    for index, hashes in enumerate(clips):
        alike[len(hashes)].append(index)
    nearest: list[Nearest | None] = [None] * len(clips)
    for indices in alike.values():
        of_equal = _of_equal_length(np.array([clips[index] for index in indices], np.uint64), min_difference)
        for place, other, difference in of_equal:
            nearest[indices[place]] = Nearest(indices[other], difference)
    return nearest


def _of_equal_length(hashes: NDArray[np.uint64], min_difference: float) -> Iterator[tuple[int, int, float]]:
    """The places in `hashes` [N, H] of each duplicate and of the nearest before it, and by how much they differ.

    Hashes that differ in fewer bits than the sum of some numbers, one for each band of their bits, differ in a band in
    fewer than its number. So only clips that are that near in a band are compared, and none is missed (multi-index
    hashing; Norouzi et al. 2012, Qin et al. 2018).
    """
    num_bits = HASH_BITS * hashes.shape[1]
    too_many = sum(bits / num_bits < min_difference for bits in range(num_bits))
    bands = [(band, defaultdict(list)) for band in _bands(too_many, *hashes.shape)] if too_many else []
    for index, row in enumerate(hashes.tolist()):
        keys = [(row[band.place] >> band.start & band.mask, band.flips, seen) for band, seen in bands]
        found = {other for key, flips, seen in keys for flip in flips for other in seen.get(key ^ flip, ())}
        if found:
            candidates = sorted(found)
            bits = np.bitwise_count(hashes[candidates] ^ hashes[index]).sum(1)
            best = int(bits.argmin())
            if bits[best] < too_many:
                yield index, candidates[best], float(bits[best]) / num_bits
                continue
        for key, _, seen in keys:
            seen[key].append(index)


class _Band(NamedTuple):
    """Some bits of one of a clip's hashes, and what changes few enough of them."""

    place: int
    start: int
    mask: int
    flips: list[int]


def _bands(too_many: int, num_clips: int, num_hashes: int) -> list[_Band]:
    """Bands of about equal width, as many in a hash as let look up and compare the fewest."""

    def radii(per_hash: int) -> list[int]:
        """Of each band; one of -1 is not needed."""
        least, more = divmod(too_many, per_hash * num_hashes)
        return [least - (band >= more) for band in range(per_hash * num_hashes)]

    def work(per_hash: int) -> float:
        width = HASH_BITS / per_hash
        lookups = sum(comb(round(width), bits) for radius in radii(per_hash) for bits in range(radius + 1))
        return lookups * (1 + num_clips / 2**width)

    per_hash = min(range(1, HASH_BITS + 1), key=work)
    edges = pairwise(np.linspace(0, HASH_BITS, per_hash + 1).astype(int).tolist())
    bands = [(place, start, stop - start) for start, stop in edges for place in range(num_hashes)]
    return [
        _Band(place, start, (1 << width) - 1, _flips(width, radius))
        for (place, start, width), radius in zip(bands, radii(per_hash), strict=True)
        if radius >= 0
    ]


def _flips(width: int, radius: int) -> list[int]:
    """Numbers of `width` bits that have at most `radius` ones."""
    ones = (bits for number in range(radius + 1) for bits in combinations(range(width), number))
    return [sum(1 << bit for bit in bits) for bits in ones]
