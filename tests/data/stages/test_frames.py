"""Which frames of a clip are looked at."""

from pathlib import Path

import pytest
from video_files import number_of, numbered, write_video

from data.probe import VideoError, probe
from data.stages.frames import frames_of
from video_dit.config import Limits

LIMITS = Limits(pixels=10_000, seconds=100, frames=1_000)


@pytest.mark.parametrize(
    ("start", "seconds", "count", "numbers"),
    [
        (0.0, 2.0, 4, [6, 18, 30, 42]),  # 24 frames per second: the middles of four parts of twelve frames
        (0.5, 1.0, 3, [16, 24, 32]),
        (1.0, 1 / 24, 2, [24, 24]),
        (47 / 24, 1 / 24, 1, [47]),
    ],
)
def test_frames_are_spread_evenly(start: float, seconds: float, count: int, numbers: list[int], tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    clip = frames_of(path, probe(path, LIMITS), start, seconds, count, 30, LIMITS)
    assert clip.pixels.shape == (count, 30, 40, 3)
    assert clip.seconds == seconds
    assert [number_of(frame) for frame in clip.pixels] == numbers


def test_the_shorter_side_is_as_high_as_asked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "upright.mp4", size=(64, 48), ticks=[0])
    assert frames_of(path, probe(path, LIMITS), 0.0, 0.04, 2, 24, LIMITS).pixels.shape == (2, 32, 24, 3)


def test_frames_that_are_not_there_or_too_large_are_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4")
    info = probe(path, LIMITS)
    with pytest.raises(VideoError, match=r"ends before the clip from 1\.000 to 4\.000 s does: 1 of 3 frames came"):
        frames_of(path, info, 1.0, 3.0, 3, 24, LIMITS)
    path = write_video(tmp_path / "long.mp4", size=(16, 320), ticks=[0], picture=lambda *_: numbered(0, 16, 320))
    with pytest.raises(VideoError, match=r"more than 10,000 pixels \(640 x 32\)"):
        frames_of(path, probe(path, LIMITS), 0.0, 0.04, 1, 32, LIMITS)
