"""A cheap look at a video, against all of its frames, decoded in order by PyAV alone."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from video_files import B_FRAMES, EVEN, FILES, with_index_in_front, write_video

from data.decoders import ReferenceFrames
from data.probe import VideoError, probe
from video_dit.config import DataConfig

LIMITS = DataConfig().limits


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_frames_of_the_video_and_the_end_is_that_of_all(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    info = probe(path, LIMITS)
    height, width = info.size[::-1] if info.quarter_turns % 2 else info.size
    with av.open(str(path)) as container:
        frames = {
            frame.dts if frame.pts is None else frame.pts: frame
            for frame in container.decode(container.streams[info.stream])
        }
    shown = {
        ticks: frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        for ticks, frame in frames.items()
    }
    ticks = sorted(shown)
    tick = float(info.tick)

    looked = ReferenceFrames(path, info, info.size, LIMITS)
    pictures = list(looked)

    times = [picture.seconds for picture in pictures]
    assert times == sorted(set(times))
    for picture in pictures:
        expected = shown[round(picture.seconds / tick) + ticks[0]]
        expected = np.rot90(expected[:, ::-1] if info.mirrored else expected, info.quarter_turns)
        assert np.array_equal(picture.pixels, expected)
    duration = frames[ticks[-1]].duration or ticks[-1] - ticks[-2]
    assert looked.end == pytest.approx((ticks[-1] - ticks[0] + duration) * tick)


def test_what_no_frame_refers_to_is_not_decoded(tmp_path: Path) -> None:
    """I and P of IBBBP; the last one is a P in any case."""
    path = write_video(tmp_path / "plain.mp4", options={**B_FRAMES, "x264-params": "b-adapt=0:scenecut=0:b-pyramid=0"})
    info = probe(path, LIMITS)
    times = [round(picture.seconds * 24) for picture in ReferenceFrames(path, info, info.size, LIMITS)]
    with av.open(str(path)) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    assert times == [index for index, kind in enumerate(kinds) if kind != PictureType.B]
    assert len(times) < len(EVEN) / 2


def test_a_file_that_was_cut_off_says_so_after_its_good_frames(tmp_path: Path) -> None:
    content = with_index_in_front(write_video(tmp_path / "whole.mp4", options=B_FRAMES)).read_bytes()
    begin = content.index(b"mdat")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: begin + round((len(content) - begin) * 0.7)])
    info = probe(cut, LIMITS)
    looked = ReferenceFrames(cut, info, info.size, LIMITS)
    times = []
    with pytest.raises(VideoError, match=r"ends after \d+ of the 48 frames|cannot be decoded"):
        times.extend(picture.seconds for picture in looked)
    assert 5 < len(times) < 24
    assert times[-1] < looked.end < 2


@pytest.mark.parametrize(
    ("limits", "message"), [({"pixels": 99}, "data.max_pixels"), ({"seconds": 1.0}, "data.max_seconds")]
)
def test_limits_stop_a_bomb(tmp_path: Path, limits: dict[str, float], message: str) -> None:
    path = FILES["b_frames"](tmp_path)
    info = probe(path, LIMITS)
    with pytest.raises(VideoError, match=message):
        list(ReferenceFrames(path, info, info.size, LIMITS._replace(**limits)))
