"""Clips that are cut, against what is decoded of them."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from video_files import B_FRAMES, FILES, write_video

from data.decoders import read_frames
from data.probe import VideoError, VideoInfo, probe
from data.stages.clips import Lengths, cut, whole
from data.stages.scan import Scan, scan
from data.video import read_windows, write_mp4
from video_dit.config import DataConfig, ShotsConfig

LIMITS = DataConfig().limits
ONE_SHOT = ShotsConfig(detector="none")

INFO = VideoInfo(
    "mp4", "h264", (48, 64), (48, 64), 0, False, Fraction(1), 24.0, 24.0, False, 0.0, 10.0, 240, Fraction(1, 12288), 0,
    (), "yuv420p", 8, None, None,
)  # fmt: skip


def made(shots: list[tuple[float, float]], rate: float = 24.0) -> Scan:
    """A scan of a picture at every frame, whose brightness is its time, and whose hash its number."""
    seconds = np.arange(round(shots[-1][1] * rate)) / rate
    empty = np.full(len(seconds), np.nan, dtype=np.float32)
    features: dict[str, NDArray[np.generic]] = {
        "brightness": seconds.astype(np.float32),
        "change": np.where(seconds * rate % 24 == 0, 9, 1).astype(np.float32),
        "sharpness": np.arange(len(seconds), dtype=np.float32),
        "motion": empty,
        "since": empty.astype(np.float64),
        "bars": np.tile(np.array([0.25, 0.25, 0, 0], dtype=np.float32), (len(seconds), 1)),
        "hash": np.arange(len(seconds), dtype=np.uint64),
    }
    return Scan(seconds, features, np.array(shots), None)


def cuts(scanned: Scan, lengths: Lengths, **config: float) -> list[tuple[float, float, int]]:
    clips = cut("video", scanned, INFO, ShotsConfig(**config), lengths)  # type: ignore[arg-type]
    assert [clip.id for clip in clips] == [f"video#{index}" for index in range(len(clips))]
    return [(round(clip.start, 9), round(clip.seconds, 9), clip.shot) for clip in clips]


def test_shots_are_cut_end_to_end_and_a_long_rest_is_a_clip() -> None:
    shots = made([(0, 5), (5, 6), (6, 10)])
    assert cuts(shots, Lengths(4, 8, 4)) == [(0, 2, 0), (2, 2, 0), (4, 1, 0), (5, 1, 1), (6, 2, 2), (8, 2, 2)]
    assert cuts(shots, Lengths(4, 8, 5)) == [(0, 2, 0), (2, 2, 0), (6, 2, 2), (8, 2, 2)]
    assert cuts(shots, Lengths(4, 1000, 5)) == [(0, 5, 0), (6, 4, 2)]


def test_a_stride_overlaps_or_leaves_out_and_no_rest_lies_in_another_clip() -> None:
    shots = made([(0, 5)])
    assert cuts(shots, Lengths(4, 8, 1), stride=1.0) == [(0, 2, 0), (1, 2, 0), (2, 2, 0), (3, 2, 0)]
    assert cuts(shots, Lengths(4, 8, 1), stride=3.0) == [(0, 2, 0), (3, 2, 0)]
    assert cuts(shots, Lengths(4, 8, 2), stride=4.0) == [(0, 2, 0), (4, 1, 0)]


def test_short_shots_give_no_clip() -> None:
    shots = made([(0, 1), (1, 3)])
    assert cuts(shots, Lengths(4, 8, 1), min_seconds=1.5) == [(1, 2, 1)]
    assert cuts(shots, Lengths(4, 8, 1), min_seconds=2.0) == [(1, 2, 1)]


def frame_times(scanned: Scan, fps: float) -> Iterator[float]:
    """Of all frames, in plain loops."""
    for begin, end in scanned.shots.tolist():
        index = 0
        while begin + index / fps + INFO.lateness < end:
            yield begin + index / fps
            index += 1


@pytest.mark.parametrize("fps", [4.0, 7.0, 23.976, 29.97, 30.0, 1 / 3])
def test_frames_lie_within_their_shot_and_nothing_is_lost(fps: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        edges = np.cumsum(rng.integers(1, 200, 4)) / 24
        shots = made([(0.0, edges[0]), (edges[0], edges[1]), (edges[2], edges[3])])
        longest = int(rng.integers(1, 20))
        clips = cut("video", shots, INFO, ONE_SHOT, Lengths(fps, longest, 1))
        times = [clip.start + k / fps for clip in clips for k in range(round(clip.seconds * fps))]
        assert times == pytest.approx(list(frame_times(shots, fps)))


def test_scores_are_of_the_frames_of_a_clip_alone() -> None:
    """At 24 frames a second; frame 24 k has a large change, as it is the first of a shot."""
    scanned = made([(0, 1), (1, 3)])
    scanned.features["motion"][[6, 26, 30, 34]] = 100, 200, 1, 3
    scanned.features["since"][[6, 26, 30, 34]] = scanned.seconds[[2, 22, 26, 30]]
    scanned.features["bars"][30] = 0.125, 1, 0.25, 0.5
    first, second, third = cut("video", scanned, INFO, ONE_SHOT, Lengths(4, 4, 1))
    # the last frame of a clip is the one at its start + 3 / 4 seconds
    assert first.scores["brightness"] == pytest.approx(np.arange(19).mean() / 24)
    assert second.scores["sharpness"] == pytest.approx(np.arange(24, 43).mean())
    assert first.scores["change"] == second.scores["change"] == third.scores["change"] == 1
    assert [clip.scores.get("motion") for clip in (first, second, third)] == [100, 2, None]
    assert first.scores["bars"] == third.scores["bars"] == pytest.approx(0.5)
    assert second.scores["bars"] == pytest.approx(1 - (1 - 0.125 - 0.25))
    assert first.hashes == (2, 7, 11, 16)
    assert second.hashes == (26, 31, 35, 40)


def test_a_clip_between_two_looked_at_pictures_has_the_one_that_shows() -> None:
    scanned = made([(0.0, 4.0)], rate=0.5)
    clips = cut("video", scanned, INFO, ONE_SHOT, Lengths(4, 4, 4))
    assert [clip.hashes for clip in clips] == [(0,), (0,), (1,), (1,)]
    assert all("change" not in clip.scores and "motion" not in clip.scores for clip in clips)


NAMES = sorted(set(FILES) - {"one_frame", "gif"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fps", [4.0, 10.0, 24.0, 30.0])
def test_without_a_detector_clips_are_the_windows_that_decoding_gives(tmp_path: Path, name: str, fps: float) -> None:
    path = FILES[name](tmp_path)
    info = probe(path, LIMITS)
    for num_frames in (1, 4, 7):
        config = DataConfig(fps=fps, num_frames=num_frames, height=info.size[0], width=info.size[1])
        windows = []
        with suppress(VideoError):  # the cut one ends before its header says
            windows.extend(window.frames for window in read_windows(path, config, info))
        lengths = Lengths(fps, num_frames, num_frames)
        clips = cut("video", scan(path, info, ONE_SHOT, LIMITS), info, ONE_SHOT, lengths)
        assert [clip.start for clip in clips] == pytest.approx([k * num_frames / fps for k in range(len(windows))])
        for clip, window in list(zip(clips, windows, strict=True))[-2:]:
            times = [clip.start + k / fps for k in range(num_frames)]
            frames = [picture.pixels for picture in read_frames(path, info, times, info.size, "auto", LIMITS)]
            assert np.array_equal(np.stack(frames), window)


@pytest.mark.parametrize(
    "name", ["b_frames", "matroska", "late_start", "hevc", "av1", "turned_90", "avi_mpeg4", "held", "gif"]
)
def test_by_the_header_alone_clips_are_the_same_without_scores(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    info = probe(path, LIMITS)
    for fps, longest, shortest in ((4.0, 3, 2), (24.0, 5, 5), (30.0, 7, 1)):
        lengths = Lengths(fps, longest, shortest)
        scanned = cut("video", scan(path, info, ONE_SHOT, LIMITS), info, ONE_SHOT, lengths)
        clips = whole("video", info, ONE_SHOT, lengths)
        assert clips == [clip._replace(scores={}, hashes=()) for clip in scanned]
    assert whole("video", info._replace(duration=None), ONE_SHOT, lengths) == []


SHOTS = (1, 12, 15, 8, 28, 9, 2)
"""Frames of each."""


def of_shot(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Waves that move, of a brightness and a colour of the shot."""
    shot = int(np.searchsorted(np.cumsum(SHOTS), number, side="right"))
    wave = 12 * np.sin((np.arange(width) + number) / 3)[None, :, None] + np.zeros((height, 1, 1))
    colour = np.array([(60, 60, 60), (200, 90, 60), (70, 110, 220), (210, 210, 90)][shot % 4])
    return (colour + wave).astype(np.uint8)


@pytest.mark.parametrize("options", [B_FRAMES, {"bf": "0", "g": "250"}])
@pytest.mark.parametrize("uneven", [False, True])
def test_no_clip_holds_a_frame_of_another_shot(tmp_path: Path, options: dict[str, str], uneven: bool) -> None:
    """Whatever the rate at which frames are taken, and though only some are looked at."""
    total = sum(SHOTS)
    steps = np.resize([50, 30, 90, 40], total) if uneven else np.full(total, 50)
    ticks = np.cumsum([0, *steps[:-1]]).tolist()
    path = write_video(tmp_path / "shots.mp4", ticks=ticks, options=options, picture=of_shot)
    info = probe(path, LIMITS)
    scanned = scan(path, info, ShotsConfig(), LIMITS)
    for fps in (4.0, 10.0, 24.0, 60.0):
        clips = cut("video", scanned, info, ShotsConfig(), Lengths(fps, 8, 1))
        held = []
        for clip in clips:
            times = [clip.start + k / fps for k in range(round(clip.seconds * fps))]
            pictures = list(read_frames(path, info, times, info.size, "auto", LIMITS))
            assert len(pictures) == len(times)
            numbers = {int(np.searchsorted(ticks, round(picture.seconds * 1200))) for picture in pictures}
            (shot,) = {int(np.searchsorted(np.cumsum(SHOTS), number, side="right")) for number in numbers}
            held.append(shot)
        assert held == sorted(held)
        assert {1, 2, 3, 4, 5} <= set(held)


def test_made_clips_of_one_length_are_whole(tmp_path: Path) -> None:
    frames = np.stack([of_shot(36 + k, 32, 64) for k in range(10)])
    write_mp4(tmp_path / "ten.mp4", frames, 8)
    info = probe(tmp_path / "ten.mp4", LIMITS)
    clips = cut(
        "video", scan(tmp_path / "ten.mp4", info, ShotsConfig(), LIMITS), info, ShotsConfig(), Lengths(8, 10, 10)
    )
    assert [(clip.start, clip.seconds) for clip in clips] == [(0.0, 1.25)]
