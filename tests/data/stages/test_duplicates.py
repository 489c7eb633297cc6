import numpy as np
import pytest
from numpy.typing import NDArray

from data.stages.duplicates import find_duplicates


def brute_force(clips: list[tuple[int, ...]], least: float) -> list[tuple[int, float] | None]:
    """By the definition: all earlier clips that are no duplicates, one by one."""
    found: list[tuple[int, float] | None] = []
    for index, clip in enumerate(clips):
        shares = [
            (sum((a ^ b).bit_count() for a, b in zip(clip, clips[other], strict=True)) / 64 / len(clip), other)
            for other in range(index)
            if found[other] is None and len(clips[other]) == len(clip)
        ]
        share, other = min(shares, default=(1.0, -1))
        found.append((other, share) if share < least else None)
    return found


@pytest.mark.parametrize("least", [0.0, 1 / 64, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("num_frames", [1, 3, 4])
def test_what_is_found_is_what_a_comparison_of_all_pairs_finds(
    rng: np.random.Generator, least: float, num_frames: int
) -> None:
    """Families of clips that differ from one another in 0 to 24 bits of each frame."""
    clips: list[tuple[int, ...]] = []
    for _ in range(20):
        original = [int(value) for value in rng.integers(0, 1 << 63, num_frames)]
        for _ in range(6):
            most = rng.integers(1, 26)
            flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(most), replace=False)) for _ in original]
            clips.append(tuple(value ^ flip for value, flip in zip(original, flips, strict=True)))
    clips += [(0,) * (num_frames + 1), ()]
    order = rng.permutation(len(clips))
    clips = [clips[index] for index in order]
    found = [nearest and (nearest.index, nearest.difference) for nearest in find_duplicates(clips, least)]
    assert found == brute_force(clips, least)
    if least >= 0.05:
        assert any(found)


def test_few_of_all_pairs_are_compared(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clips that are nothing alike, at the share that the config recommends."""
    compared, count = 0, np.bitwise_count

    def counting(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
        nonlocal compared
        compared += len(values)
        return count(values)

    monkeypatch.setattr(np, "bitwise_count", counting)
    clips = [tuple(hashes) for hashes in rng.integers(0, 1 << 63, (8000, 4)).tolist()]
    assert find_duplicates(clips, 0.1) == [None] * 8000
    assert compared < 0.01 * 8000 * 7999 / 2


def test_a_chain_of_likenesses_keeps_its_ends() -> None:
    """B is like A, and C like B but not like A: C stays, as B is not there any more."""
    a, b, c = (0,), (0b111,), (0b111111,)
    assert [nearest and nearest.index for nearest in find_duplicates([a, b, c], 4 / 64)] == [None, 0, None]
