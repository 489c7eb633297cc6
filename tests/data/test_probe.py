"""What the probe says of files of all kinds, and why it refuses others."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from bad_files import BAD_FILES, latin_metadata, pipe, written
from video_files import B_FRAMES, FILES, OPEN_GOP, copy_from, remux, with_index_in_front, write_video

from data.probe import VideoError, probe
from video_dit.config import DataConfig

LIMITS = DataConfig().limits


def test_a_plain_file(tmp_path: Path) -> None:
    info = probe(FILES["b_frames"](tmp_path), LIMITS)
    assert (info.codec, info.pixel_format, info.bit_depth) == ("h264", "yuv420p", 8)
    assert (info.coded_size, info.size, info.sample_aspect_ratio) == ((48, 64), (48, 64), 1)
    assert (info.average_rate, info.nominal_rate, info.variable_rate) == (24, 24, False)
    assert (info.start, info.duration, info.num_frames) == (0, 2, 48)
    assert (info.quarter_turns, info.mirrored) == (0, False)
    assert info.streams == ((0, "video", "h264"),)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("variable_rate", {"variable_rate": True, "num_frames": 48}),
        ("late_start", {"start": 5.0, "duration": 2.0}),
        ("h264_10_bits", {"bit_depth": 10, "pixel_format": "yuv420p10le"}),
        ("full_range", {"color_range": "full"}),
        ("hevc", {"codec": "hevc", "color_range": "limited"}),
        ("av1", {"codec": "av1"}),
        ("odd_size", {"coded_size": (49, 67), "size": (49, 67)}),
        ("wide_pixels", {"sample_aspect_ratio": Fraction(4, 3), "coded_size": (48, 64), "size": (48, 85)}),
        ("turned_90", {"quarter_turns": 1, "mirrored": False, "coded_size": (48, 64), "size": (64, 48)}),
        ("turned_270", {"quarter_turns": 3, "mirrored": False, "size": (64, 48)}),
        ("mirrored", {"mirrored": True, "size": (64, 48)}),
        ("two_streams", {"stream": 1, "size": (48, 64), "streams": ((0, "video", "h264"), (1, "video", "h264"))}),
        ("one_frame", {"num_frames": 1, "variable_rate": False}),
        ("matroska", {"num_frames": None, "duration": pytest.approx(2.0, abs=0.002)}),
        ("transport_stream", {"format": "mpegts", "num_frames": None, "duration": 2.0}),
        ("avi_mpeg4", {"format": "avi", "codec": "mpeg4", "num_frames": 48}),
        ("edit_list", {"duration": pytest.approx(43 / 24, abs=0.001)}),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, expected: dict[str, object]) -> None:
    info = probe(FILES[name](tmp_path), LIMITS)
    assert {field: getattr(info, field) for field in expected} == expected


def test_a_file_that_says_nothing_of_its_length_is_counted(tmp_path: Path) -> None:
    raw = write_video(tmp_path / "raw.nut", options=B_FRAMES)
    live = remux(raw, tmp_path / "live.mkv", {"live": "1"})  # as a recording that was never finished
    info = probe(live, LIMITS)
    assert info.num_frames == 48
    assert info.duration == pytest.approx(2, abs=0.05)


def test_metadata_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    assert probe(latin_metadata(tmp_path), LIMITS).size == (32, 32)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    FILES["b_frames"](tmp_path)
    FILES["transport_stream"](tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    make, message = BAD_FILES[kind]
    with pytest.raises(VideoError, match=message):
        probe(make(folder), LIMITS)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is no regular file"):
        probe(pipe(tmp_path), LIMITS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = FILES["b_frames"](tmp_path)
    path.chmod(0)
    with pytest.raises(VideoError, match="permission denied"):
        probe(path, LIMITS)


def test_bytes_that_were_damaged_anywhere_never_crash(tmp_path: Path) -> None:
    """A video error or an answer; 60 files, each with a run of other bytes somewhere."""
    content = with_index_in_front(FILES["b_frames"](tmp_path)).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        begin, length = rng.integers(len(content)), rng.integers(1, 64)
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        try:
            probe(written(tmp_path, content[:begin] + noise + content[begin + length :]), LIMITS)
        except VideoError:
            refused += 1
    assert 0 < refused < 60


def test_a_cut_begins_with_its_first_frame_that_can_be_shown(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", options=OPEN_GOP)
    info = probe(copy_from(whole, tmp_path / "cut.mp4", 12), LIMITS)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert info.start == pytest.approx(next(container.decode(video=0)).time)


def test_real_files(assets: Path) -> None:
    clips = assets / "clips"
    nasa = probe(clips / "multishot/nasa_13013.mp4", LIMITS)
    assert (nasa.stream, nasa.size, len(nasa.streams)) == (3, (270, 480), 6)
    assert [stream.kind for stream in nasa.streams].count("subtitle") == 2
    assert probe(clips / "vfr/var_fps_video.mp4", LIMITS).variable_rate
    assert probe(clips / "codecs/test_non_zero_start.mp4", LIMITS).start == pytest.approx(8.333, abs=0.001)
    assert probe(clips / "rotated/video_90.mov", LIMITS).quarter_turns == 3
    with pytest.raises(VideoError, match="no video stream, only audio"):
        probe(clips / "audio_only/nasa_13013.mp4.audio.mp3", LIMITS)
