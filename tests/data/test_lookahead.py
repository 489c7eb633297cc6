"""Which frames nobody asks for, against what all timestamps together say."""

from itertools import pairwise

import av
import numpy as np
import pytest

from data.decoders.lookahead import MAX_AHEAD, Wanted, with_need


def packet(pts: int | None, dts: int | None) -> av.Packet:
    made = av.Packet(1)
    made.pts, made.dts = pts, dts
    return made


def reordered(shown: list[int], depth: int, rng: np.random.Generator) -> list[av.Packet]:
    """Frames that show at these ticks, decoded in another order: each at most `depth` frames before it shows."""
    keys = np.arange(len(shown)) - rng.integers(0, depth + 1, len(shown))
    order = sorted(range(len(shown)), key=lambda index: (keys[index], index))
    late = max(place - index for place, index in enumerate(order))
    times = [
        *(shown[0] - 50 * (late - k) for k in range(late)),
        *shown,
    ]  # the n-th is decoded when the n-th shows, or before
    return [packet(shown[index], times[place]) for place, index in enumerate(order)]


@pytest.mark.parametrize("depth", [0, 1, 3, 16])
def test_just_the_frames_that_show_when_asked_for_are_needed(depth: int) -> None:
    rng = np.random.default_rng(depth)
    for _ in range(20):
        shown = np.cumsum(rng.integers(1, 90, 60)).tolist()
        times = sorted(rng.integers(0, shown[-1] + 100, rng.integers(1, 30)).tolist())
        expected = {begin for begin, end in pairwise(shown[:-1]) if any(begin <= time < end for time in times)} | set(
            shown[-2:]
        )
        packets = reordered(shown, depth, rng)
        wanted = Wanted(map(float, times))
        found = list(with_need(packets, wanted.has_any))
        assert [each for each, _ in found] == packets
        needed = {each.pts for each, is_needed in found if is_needed}
        assert expected <= needed
        last_decoded = {each.pts for each in packets[-2 * depth - 3 :]}  # nothing comes after them that would tell
        assert needed <= expected | last_decoded


@pytest.mark.parametrize(
    "broken",
    [packet(None, 500), packet(500, None), packet(400, 500), packet(400, 100)],
    ids=["pts", "dts", "early", "back"],
)
def test_nothing_is_left_out_once_timestamps_cannot_be_trusted(broken: av.Packet) -> None:
    good = [packet(50 * k, 50 * k) for k in range(20)]
    found = list(with_need([*good[:10], broken, *good[10:]], lambda begin, end: False))
    needed = [is_needed for _, is_needed in found]
    assert not any(needed[:8])
    assert all(needed[8:])


def test_no_more_packets_are_held_than_a_codec_reorders() -> None:
    """Of a file that says of all frames that they are decoded at once."""
    read = 0

    def packets():  # type: ignore[no-untyped-def]
        nonlocal read
        for read in range(1, 1000):
            yield packet(50 * read, 0)

    for number, (_, is_needed) in enumerate(with_need(packets(), lambda begin, end: False), start=1):
        assert is_needed
        assert read - number <= MAX_AHEAD


def test_what_was_read_before_an_error_comes_out_before_it() -> None:
    def packets():  # type: ignore[no-untyped-def]
        for k in range(3):
            yield packet(50 * k, 50 * k)
        raise av.InvalidDataError(1, "damaged")

    found = []
    with pytest.raises(av.InvalidDataError):
        found.extend(each.pts for each, _ in with_need(packets(), lambda begin, end: False))
    assert found == [0, 50, 100]


def test_wanted_times_are_looked_at_before_their_turn_and_forgotten_after_it() -> None:
    wanted = Wanted(k / 8 for k in range(1_000_000_000))
    times = iter(wanted)
    assert next(times) == 0
    assert wanted.has_any(5, 5.1)
    assert not wanted.has_any(5.01, 5.1)
    assert [next(times) for _ in range(3)] == [0.125, 0.25, 0.375]
    assert wanted.has_any(0.375, 0.376)
    assert not wanted.has_any(0, 0.375)
    assert list(Wanted([1.0, 1.0, 2.0])) == [1, 1, 2]
