from pathlib import Path

import av
import numpy as np
import pytest

from data.probe import VideoError, probe
from data.video import read_clips, read_windows, write_mp4
from video_dit.config import DataConfig
from video_dit.shapes import Grid

FPS = 8


def numbered_frames(count: int, height: int = 32, width: int = 64) -> np.ndarray:
    """Frame k is the grey level 10 + 8 k all over."""
    return np.stack([np.full((height, width, 3), 10 + 8 * k, dtype=np.uint8) for k in range(count)])


def frame_numbers(windows: list[np.ndarray]) -> list[list[int]]:
    return [[round((float(frame.mean()) - 10) / 8) for frame in window] for window in windows]


def config(**changes: object) -> DataConfig:
    return DataConfig(**{"fps": FPS, "num_frames": 4, "height": 32, "width": 64, **changes})  # type: ignore[arg-type]


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    path = tmp_path / "numbered.mp4"
    write_mp4(path, numbered_frames(10), FPS)
    return path


def test_what_is_written_is_what_players_want(numbered: Path) -> None:
    info = probe(numbered, config().limits)
    assert (info.codec, info.size, info.average_rate, info.duration) == ("h264", (32, 64), 8.0, 1.25)
    with av.open(str(numbered)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
    content = numbered.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads


def test_odd_sizes_gain_a_copy_of_the_last_row_and_column(tmp_path: Path) -> None:
    frames = numbered_frames(2, 33, 65)
    frames[:, 32:] = frames[:, :, 64:] = 250
    write_mp4(tmp_path / "odd.mp4", frames, FPS)
    assert probe(tmp_path / "odd.mp4", config().limits).size == (34, 66)
    with av.open(str(tmp_path / "odd.mp4")) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert first[33].min() > 230
    assert first[:, 65].min() > 230
    assert first[:31, :63].max() < 40


def test_colours_come_back_and_are_labelled(tmp_path: Path) -> None:
    """An H.264 file without a label is read as BT.601 or BT.709, whatever the player thinks."""
    colour = np.array([200, 30, 60], dtype=np.uint8)
    write_mp4(tmp_path / "red.mp4", np.broadcast_to(colour, (3, 32, 32, 3)), FPS)
    with av.open(str(tmp_path / "red.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 6  # BT.601, in ITU-T H.273
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(first.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_windows_lie_end_to_end_and_a_rest_is_left_out(numbered: Path, decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    windows = [window.frames for window in read_windows(numbered, config(decoder=decoder))]
    assert frame_numbers(windows) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows[0].shape == (4, 32, 64, 3)


def test_half_the_rate_takes_every_other_frame_and_twice_repeats_each(numbered: Path) -> None:
    assert frame_numbers([window.frames for window in read_windows(numbered, config(fps=4))]) == [[0, 2, 4, 6]]
    assert frame_numbers([window.frames for window in read_windows(numbered, config(fps=16))])[0] == [0, 0, 1, 1]


def test_clips_start_where_they_are_asked_to_and_can_overlap(numbered: Path) -> None:
    info = probe(numbered, config().limits)
    found = dict(read_clips(numbered, info, [0.5, 0.125, 0.25], Grid(3, 16, 16), config()))
    assert frame_numbers([found[index].frames for index in range(3)]) == [[4, 5, 6], [1, 2, 3], [2, 3, 4]]
    assert (found[0].frames.shape, found[0].crop) == ((3, 16, 16, 3), (0, 8))
    some = []
    with pytest.raises(VideoError, match=r"ends before its clip at 1\.00 seconds does"):
        some.extend(read_clips(numbered, info, [1.0, 0.0], Grid(3, 16, 16), config()))
    assert [index for index, _ in some] == [1]


def test_scaling_covers_and_crops_the_centre(tmp_path: Path) -> None:
    """Left third red, middle third green, right third blue; a square crop of a 3:1 picture is the green."""
    frames = np.zeros((4, 32, 96, 3), dtype=np.uint8)
    for third in range(3):
        frames[:, :, 32 * third : 32 * (third + 1), third] = 200
    write_mp4(tmp_path / "thirds.mp4", frames, FPS)
    (window,) = read_windows(tmp_path / "thirds.mp4", config(height=16, width=16))
    assert (window.source_size, window.crop) == ((32, 96), (0, 16))
    red, green, blue = window.frames[:, 2:-2, 2:-2].reshape(-1, 3).mean(0)
    assert green > 180
    assert max(red, blue) < 20


def test_damage_ends_a_video_after_its_good_windows(assets: Path) -> None:
    """28 frames at 10 fps can be decoded: seven windows of four."""
    windows = []
    with pytest.raises(VideoError, match="Invalid data"):
        windows.extend(read_windows(assets / "clips/corrupt/corrupted.mp4", config(fps=10)))
    assert [window.frames.shape for window in windows] == [(4, 32, 64, 3)] * 7
