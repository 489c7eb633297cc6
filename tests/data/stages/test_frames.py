"""Which frames of a clip are looked at."""

from pathlib import Path

import pytest
from PIL import Image
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
    clip = frames_of(path, probe(path, LIMITS), start, seconds, 24, count, 30, LIMITS)
    assert clip.pixels.shape == (count, 30, 40, 3)
    assert clip.seconds == seconds
    assert [number_of(frame) for frame in clip.pixels] == numbers


@pytest.mark.parametrize("count", [1, 4, 8])
def test_no_frame_is_looked_at_that_is_not_of_the_clip(count: int, tmp_path: Path) -> None:
    """Eight at 4 per second end at 1.75 s, and the video soon after; an image shows for ever, whatever the rate."""
    path = write_video(tmp_path / "ends.mp4", ticks=range(0, 44 * 50, 50))
    clip = frames_of(path, probe(path, LIMITS), 0.0, 2.0, 4, count, 30, LIMITS)
    expected = {1: [24], 4: [6, 18, 30, 42], 8: [0, 6, 12, 18, 24, 30, 36, 42]}
    assert [number_of(frame) for frame in clip.pixels] == expected[count]
    Image.fromarray(numbered(5)).save(tmp_path / "image.png")
    info = probe(tmp_path / "image.png", LIMITS)
    for seconds in (0.25, 2.0):
        clip = frames_of(tmp_path / "image.png", info, 0.0, seconds, 4, count, 30, LIMITS)
        assert [number_of(frame) for frame in clip.pixels] == [5] * count


def test_the_shorter_side_is_as_high_as_asked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "upright.mp4", size=(64, 48), ticks=[0])
    assert frames_of(path, probe(path, LIMITS), 0.0, 1 / 24, 24, 2, 24, LIMITS).pixels.shape == (2, 32, 24, 3)


def test_frames_that_are_not_there_or_too_large_are_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4")
    info = probe(path, LIMITS)
    with pytest.raises(VideoError, match=r"ends before the clip from 1\.000 to 4\.000 s does: 1 of 3 frames came"):
        frames_of(path, info, 1.0, 3.0, 24, 3, 24, LIMITS)
    path = write_video(tmp_path / "long.mp4", size=(16, 320), ticks=[0], picture=lambda *_: numbered(0, 16, 320))
    with pytest.raises(VideoError, match=r"more than 10,000 pixels \(640 x 32\)"):
        frames_of(path, probe(path, LIMITS), 0.0, 1 / 24, 24, 1, 32, LIMITS)
