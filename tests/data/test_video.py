from pathlib import Path

import av
import numpy as np
import pytest

from data.video import Picture, VideoError, _resample, probe, read_windows, write_mp4
from video_dit.config import DataConfig

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
    info = probe(numbered)
    assert info == (64, 32, 8.0, 1.25, "h264")
    with av.open(str(numbered)) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
    content = numbered.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads


def test_odd_sizes_gain_a_copy_of_the_last_row_and_column(tmp_path: Path) -> None:
    frames = numbered_frames(2, 33, 65)
    frames[:, 32:] = frames[:, :, 64:] = 250
    write_mp4(tmp_path / "odd.mp4", frames, FPS)
    assert probe(tmp_path / "odd.mp4")[:2] == (66, 34)
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


def test_resampling_shows_what_a_player_shows_at_variable_rates() -> None:
    times = [0.0, 0.1, 0.5, 0.6, 1.0]
    pictures = [Picture(time, np.full((1, 1, 3), i, dtype=np.uint8), (1, 1)) for i, time in enumerate(times)]
    shown = [int(picture.pixels[0, 0, 0]) for picture in _resample(iter(pictures), fps=5)]
    # at 0, 0.2, ... 1.2 seconds; the last frame shows as long as the one before it, 0.4 s
    assert shown == [0, 1, 1, 3, 3, 4, 4]


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


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_rotation_in_the_header_is_applied(tmp_path: Path, angle: int) -> None:
    """The top left quarter is white; by quarter turns counter-clockwise it goes to the bottom left, right, and up."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[:32, :32] = 255
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.set_display_rotation(angle)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (window,) = read_windows(tmp_path / "turned.mp4", config(height=64, width=64))
    assert np.abs(window.frames[0].astype(int) - np.rot90(picture, angle // 90)).mean() < 8


def test_files_that_are_no_video_say_why(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    with pytest.raises(VideoError, match="cannot be opened: Invalid data"):
        probe(text)
    with pytest.raises(VideoError, match="Invalid data"):
        list(read_windows(text, config()))


def test_damage_ends_a_video_after_its_good_windows(assets: Path) -> None:
    windows = read_windows(assets / "clips/corrupt/corrupted.mp4", config(fps=10))
    assert next(windows).frames.shape == (4, 32, 64, 3)
    with pytest.raises(VideoError, match="Invalid data"):
        list(windows)


def test_sound_alone_is_no_video(assets: Path) -> None:
    with pytest.raises(VideoError, match="no video stream, only audio"):
        probe(assets / "clips/audio_only/nasa_13013.mp4.audio.mp3")


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_is_applied_as_decord_applies_it(assets: Path, angle: int) -> None:
    pytest.importorskip("decord")
    path = assets / f"clips/rotated/video_{angle}.mov"
    ours, theirs = (
        next(read_windows(path, config(fps=30, num_frames=2, decoder=decoder))).frames.astype(float)
        for decoder in ("pyav", "decord")
    )
    assert np.abs(ours - theirs).mean() < 6
    assert np.abs(ours - theirs[:, ::-1, ::-1]).mean() > 12
