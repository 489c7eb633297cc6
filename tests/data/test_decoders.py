"""Each decoder against all frames of a file, decoded in order by PyAV alone."""

import multiprocessing
import shutil
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from video_files import B_FRAMES, EVEN, FILES, number_of, numbered, with_index_in_front, write_video

from data.decoders import DECODERS, pyav, read_frames
from data.probe import VideoError, VideoInfo, probe
from video_dit.config import ConfigError, DataConfig, Limits

LIMITS = DataConfig().limits

CLIPS = (
    "codecs/animated.gif", "codecs/av1_video.mkv", "codecs/bt601_full_range.mp4", "codecs/delayed_start.mp4",
    "codecs/h264_10bits.mp4", "codecs/h265_video.mp4", "codecs/nasa_13013_hdr.mp4", "codecs/test_non_zero_start.mp4",
    "codecs/testsrc2_odd_height_and_width_vp9.mp4", "codecs/testsrc2_vp9.webm", "corrupt/corrupted.mp4",
    "corrupt/unordered.mov", "multishot/bigbuckbunny.mp4", "multishot/bikes.mp4", "multishot/fades.mp4",
    "multishot/nasa_13013.mp4", "multishot/testvideo.mp4", "multishot/trailer_bbb.mp4",
    "rotated/nasa_13013_rotated.mp4", "rotated/video_0.mov", "rotated/video_90.mov", "rotated/video_180.mov",
    "rotated/video_270.mov", "vfr/nasa_13013_vfr.mp4", "vfr/var_fps_video.mp4",
)  # fmt: skip

UNFIT = {
    "decord": {
        "open_gop", "transport_stream", "hevc", "hevc_10_bits", "av1", "avi_mpeg4", "mpeg2_program_stream", "edit_list",
        "cut", "two_streams", "gif", "turned_90", "turned_270", "mirrored",
        "codecs/animated.gif", "codecs/av1_video.mkv", "codecs/h265_video.mp4",
        "codecs/testsrc2_odd_height_and_width_vp9.mp4", "codecs/testsrc2_vp9.webm", "multishot/nasa_13013.mp4",
        "corrupt/corrupted.mp4",
    },
    "torchcodec": {
        "transport_stream", "avi_mpeg4", "mpeg2_program_stream", "variable_rate", "edit_list", "cut", "mirrored",
    },
}  # fmt: skip
"""Files that a decoder refuses, or of which it returns wrong frames without a word."""


BT601, BT709, UNSPECIFIED = 6, 1, 2
"""ITU-T H.273's numbers of matrices."""


class Reference(NamedTuple):
    """All frames of a file in order: seconds from the first one, and [H, W, 3]."""

    seconds: list[float]
    frames: list[NDArray[np.uint8]]


def decode_in_order(path: Path, info: VideoInfo, size: tuple[int, int]) -> Reference:
    """Up to the first packet that cannot be decoded; knows of `info` the stream and how it is turned."""
    height, width = size[::-1] if info.quarter_turns % 2 else size
    ticks, frames = [], []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        try:
            for frame in container.decode(stream):
                is_unnamed_hd = frame.colorspace == UNSPECIFIED and frame.height >= 720
                matrix = "ITU709" if is_unnamed_hd else None
                pixels = frame.reformat(width, height, "rgb24", matrix, interpolation="AREA").to_ndarray()
                pixels = pixels[:, ::-1] if info.mirrored else pixels
                frames.append(np.rot90(pixels, info.quarter_turns))
                ticks.append(frame.dts if frame.pts is None else frame.pts)
        except av.InvalidDataError:
            assert path.name == "corrupted.mp4"
        return Reference([float((tick - ticks[0]) * stream.time_base) for tick in ticks], frames)


def requests(num_frames: int) -> list[list[int]]:
    """All frames; some in even steps, between which those that others do not refer to are left out; some from several
    random places, which takes seeks; and single ones."""
    rng = np.random.default_rng(0)
    steps = [list(range(first, num_frames, step)) for first, step in ((0, 3), (1, 4), (2, 7))]
    some = [sorted(rng.choice(num_frames, min(5, num_frames), replace=False).tolist()) for _ in range(6)]
    return [list(range(num_frames)), *filter(None, steps), *some, [num_frames - 1], [num_frames // 2]]


def numbers_returned(path: Path, decoder: str, size: tuple[int, int], reference: Reference, wanted: Sequence[int]):  # type: ignore[no-untyped-def]
    """The numbers of the frames to which those that are returned are equal, or nearest for other ways to scale."""
    info = probe(path, LIMITS)
    seconds = [reference.seconds[number] for number in wanted]
    pictures = list(read_frames(path, info, seconds, size, decoder, LIMITS))  # type: ignore[arg-type]
    assert [picture.seconds for picture in pictures] == pytest.approx(seconds[: len(pictures)], abs=2e-3)
    numbers = []
    for picture, number in zip(pictures, wanted, strict=False):
        differences = {
            near: np.abs(picture.pixels.astype(int) - reference.frames[near]).mean()
            for near in range(max(0, number - 6), min(len(reference.frames), number + 7))
        }
        least = min(differences.values())
        if decoder in ("pyav", "auto"):
            assert least == 0
        assert least < 8
        alike = differences[number] <= 1.5 * least + 2  # pictures that hardly move, scaled in another way
        numbers.append(number if alike else min(differences, key=differences.__getitem__))
    return numbers


def skip_without(decoder: str) -> None:
    if decoder in UNFIT:
        try:
            __import__(decoder)
        except (ImportError, RuntimeError):
            pytest.skip(f"{decoder} is not installed, or finds no FFmpeg")


def compare(name: str, path: Path, decoder: str) -> None:
    if name in UNFIT.get(decoder, ()):
        pytest.skip(f"{decoder} is known to refuse this file, or to return wrong frames of it")
    skip_without(decoder)
    info = probe(path, LIMITS)
    size = tuple(max(16, side // 4) for side in info.size) if max(info.size) > 200 else info.size
    reference = decode_in_order(path, info, size)
    for wanted in requests(len(reference.frames)):
        assert numbers_returned(path, decoder, size, reference, wanted) == wanted


@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec", "auto"])
@pytest.mark.parametrize("name", FILES)
def test_made_files_give_the_frames_that_were_asked_for(tmp_path: Path, name: str, decoder: str) -> None:
    compare(name, FILES[name](tmp_path), decoder)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec", "auto"])
@pytest.mark.parametrize("name", CLIPS)
def test_real_files_give_the_frames_that_were_asked_for(assets: Path, name: str, decoder: str) -> None:
    compare(name, assets / "clips" / name, decoder)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"gif", "mirrored", "edit_list", "cut", "one_frame"}))
def test_frames_show_the_numbers_that_were_written(tmp_path: Path, name: str) -> None:
    """At the times of the frames as PyAV decodes them in order; the numbers know nothing of PyAV."""
    path = FILES[name](tmp_path)
    info = probe(path, LIMITS)
    seconds = decode_in_order(path, info, (2, 2)).seconds
    pictures = read_frames(path, info, seconds, info.size, "auto", LIMITS)
    assert [number_of(np.rot90(picture.pixels, -info.quarter_turns)) for picture in pictures] == list(range(48))


def test_an_edit_list_leaves_out_what_lies_before_it(tmp_path: Path) -> None:
    path = FILES["edit_list"](tmp_path)
    info = probe(path, LIMITS)
    pictures = list(read_frames(path, info, (index / 24 for index in count()), info.size, "auto", LIMITS))
    assert [number_of(picture.pixels) for picture in pictures] == list(range(5, 48))


def test_a_player_shows_each_frame_until_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "uneven.ts", ticks=[0, 120, 600, 720, 1200], options=B_FRAMES)
    pictures = read_frames(path, probe(path, LIMITS), (k / 5 for k in count()), (48, 64), "pyav", LIMITS)
    # at 0, 0.2, ... 1.2 s; the last one, of which the file says nothing, shows as long as the one before it, 0.4 s
    assert [number_of(picture.pixels) for picture in pictures] == [0, 1, 1, 3, 3, 4, 4]


@pytest.mark.parametrize("decoder", ["pyav", "decord", "torchcodec"])
def test_the_last_frame_shows_as_long_as_the_file_says(tmp_path: Path, decoder: str) -> None:
    """A second, from 47 / 24 s on."""
    skip_without(decoder)
    path = FILES["held"](tmp_path)
    info = probe(path, LIMITS)
    assert info.duration == pytest.approx(71 / 24)
    pictures = list(read_frames(path, info, (k / 24 for k in count()), info.size, decoder, LIMITS))  # type: ignore[arg-type]
    assert [number_of(picture.pixels) for picture in pictures] == [*range(48), *([47] * 23)]
    with pytest.raises(VideoError, match=r"longer than 2.5 seconds \(3\): data.max_seconds"):
        list(read_frames(path, info, (k / 24 for k in count()), info.size, decoder, LIMITS._replace(seconds=2.5)))  # type: ignore[arg-type]


def test_a_gif_s_last_picture_is_held_and_nothing_is_decoded_twice_meanwhile(tmp_path: Path) -> None:
    """Ten at 0.1 s each, but for the last one, of 5 s."""
    first, *others = (Image.fromarray(numbered(number)) for number in range(10))
    times = [100] * 9 + [5000]
    first.save(tmp_path / "held.gif", save_all=True, append_images=others, duration=times)
    info = probe(tmp_path / "held.gif", LIMITS)
    once = LIMITS._replace(frames=10)
    pictures = read_frames(tmp_path / "held.gif", info, (k / 4 for k in count()), info.size, "auto", once)
    assert [number_of(picture.pixels) for picture in pictures] == [0, 2, 5, 7] + [9] * 20


def test_timestamps_in_milliseconds_neither_double_nor_skip_a_frame(tmp_path: Path) -> None:
    """Matroska's 42 and 83 ms are 1/24 and 2/24 s, one of them rounded up."""
    path = FILES["matroska"](tmp_path)
    pictures = read_frames(path, probe(path, LIMITS), (k / 24 for k in count()), (48, 64), "pyav", LIMITS)
    assert [number_of(picture.pixels) for picture in pictures] == list(range(48))


def test_a_seek_decodes_little_of_a_long_file(tmp_path: Path) -> None:
    """A limit on decoded frames tells how many there were."""
    path = write_video(tmp_path / "long.mp4", ticks=range(0, 12000, 50), options=B_FRAMES)
    info = probe(path, LIMITS)
    few = Limits(LIMITS.pixels, LIMITS.seconds, 60)
    pictures = list(read_frames(path, info, [0.5, 9.5], info.size, "pyav", few))
    assert [number_of(picture.pixels) for picture in pictures] == [12, 228]
    with pytest.raises(VideoError, match="more than 60 frames"):
        list(read_frames(path, info, (k / 24 for k in count()), info.size, "pyav", few))


@pytest.mark.parametrize("step", [2, 3, 5, 7])
def test_going_on_in_small_steps_decodes_nothing_twice(tmp_path: Path, step: int) -> None:
    path = write_video(tmp_path / "long.mp4", ticks=range(0, 12000, 50), options=B_FRAMES)
    info = probe(path, LIMITS)
    once = Limits(LIMITS.pixels, LIMITS.seconds, 240)
    pictures = list(read_frames(path, info, (k / 24 for k in range(0, 240, step)), info.size, "pyav", once))
    assert [number_of(picture.pixels) for picture in pictures] == list(range(0, 240, step))


def test_what_nobody_asks_for_and_no_frame_refers_to_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IBBBP...: where every fourth frame is asked for, from the second on, two of three B-frames are left out."""
    plain = {**B_FRAMES, "x264-params": "b-adapt=0:scenecut=0:b-pyramid=0"}
    path = write_video(tmp_path / "long.mp4", ticks=range(0, 12000, 50), options=plain)
    info = probe(path, LIMITS)
    decoded = []
    monkeypatch.setattr(pyav, "timestamp", lambda frame: decoded.append(frame) or frame.pts)
    wanted = range(1, 240, 4)
    pictures = list(read_frames(path, info, (k / 24 for k in wanted), info.size, "pyav", LIMITS))
    assert [number_of(picture.pixels) for picture in pictures] == list(wanted)
    assert len(decoded) < 0.6 * 240
    everything = list(read_frames(path, info, (k / 24 for k in count()), info.size, "pyav", LIMITS))
    assert [number_of(picture.pixels) for picture in everything] == list(range(240))


def test_the_end_is_told_from_the_last_frames_also_where_they_are_not_asked_for(tmp_path: Path) -> None:
    """The last frame lasts as long as the one before it, 0.1 s, and not as the gap to the last but two."""
    path = write_video(
        tmp_path / "end.ts",
        ticks=[*range(0, 2400, 120), 2880, 3000],
        options={"bf": "3", "x264-params": "b-adapt=0:b-pyramid=0"},
    )
    info = probe(path, LIMITS)
    for wanted, numbers in (([0.0, 2.55], [0, 21]), ([0.0, 2.65], [0]), ([0.0, 2.3, 2.65], [0, 19])):
        pictures = read_frames(path, info, wanted, info.size, "pyav", LIMITS)
        assert [number_of(picture.pixels) for picture in pictures] == numbers


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_display_matrix_is_applied(tmp_path: Path, angle: int, mirrored: bool) -> None:
    """Turned counter-clockwise, then mirrored, says PyAV's writer."""
    path = write_video(
        tmp_path / "turned.mp4",
        ticks=EVEN[:2],
        setup=lambda stream: stream.set_display_rotation(angle, hflip=mirrored),
        options={"crf": "1"},
    )
    info = probe(path, LIMITS)
    expected = np.rot90(numbered(0), angle // 90)
    expected = expected[:, ::-1] if mirrored else expected
    assert info.size == expected.shape[:2]
    (picture,) = read_frames(path, info, [0.0], info.size, "auto", LIMITS)
    assert np.abs(picture.pixels.astype(int) - expected).mean() < 3


RANGES = {1: (16, 219, 224), 2: (0, 255, 255)}
"""Black, and the spans of luma and chroma, of 8 bits, by ITU-T H.273's number of the range."""


WEIGHTS = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722)}
"""Of red and blue in luma, by ITU-T H.273's number of the matrix."""


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("color_range", RANGES)
@pytest.mark.parametrize(
    ("matrix", "size", "used"),
    [
        (BT601, (32, 32), BT601),
        (BT709, (32, 32), BT709),
        (UNSPECIFIED, (704, 64), BT601),
        (UNSPECIFIED, (720, 64), BT709),
        (UNSPECIFIED, (64, 1280), BT709),
        (BT601, (720, 64), BT601),
    ],
)
def test_colours_are_those_of_the_matrix_and_the_range(
    tmp_path: Path, matrix: int, size: tuple[int, int], used: int, color_range: int, depth: int
) -> None:
    """ITU-R BT.601's and BT.709's equations, from the stored Y, Cb and Cr to RGB; where none is named, by the size."""
    stored = np.array([120, 90, 170]) << (depth - 8)
    path = tmp_path / "colour.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"qp": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p" if depth == 8 else "yuv420p10le"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        frame = av.VideoFrame(*size[::-1], stream.pix_fmt)
        frame.colorspace, frame.color_range = matrix, color_range
        for plane, value in zip(frame.planes, stored, strict=True):
            samples = np.full(
                plane.buffer_size * 8 // (16 if depth == 10 else 8), value, dtype=f"<u{depth // 8 + (depth > 8)}"
            )
            plane.update(samples.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = probe(path, LIMITS)
    is_said = (matrix, color_range) != (UNSPECIFIED, 1)  # x264 writes no label of what is the default
    assert (info.bit_depth, info.color_range) == (depth, {1: "limited", 2: "full"}[color_range] if is_said else None)
    (picture,) = read_frames(path, info, [0.0], info.size, "auto", LIMITS)

    (kr, kb), (black, luma_span, chroma_span) = WEIGHTS[used], RANGES[color_range]
    y, cb, cr = (120 - black) / luma_span, (90 - 128) / chroma_span, (170 - 128) / chroma_span
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    assert np.abs(picture.pixels[8:-8, 8:-8].mean((0, 1)) - 255 * np.array([red, green, blue])).max() < 2.5


def test_wide_pixels_are_stretched_to_what_a_player_shows(tmp_path: Path) -> None:
    path = FILES["wide_pixels"](tmp_path)
    info = probe(path, LIMITS)
    assert (info.coded_size, info.size) == ((48, 64), (48, 85))
    (picture,) = read_frames(path, info, [1.0], info.size, "auto", LIMITS)
    assert picture.pixels.shape == (48, 85, 3)
    assert number_of(picture.pixels) == 24


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_file_that_was_cut_off_gives_its_good_frames_and_says_so(tmp_path: Path, share: float) -> None:
    content = with_index_in_front(write_video(tmp_path / "whole.mp4", options=B_FRAMES)).read_bytes()
    begin = content.index(b"mdat")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: begin + round((len(content) - begin) * share)])
    info = probe(cut, LIMITS)
    pictures = read_frames(cut, info, (k / 24 for k in count()), info.size, "auto", LIMITS)
    numbers = []
    with pytest.raises(VideoError, match=r"ends after \d+ of the 48 frames that its header promises|cannot be decoded"):
        numbers.extend(number_of(picture.pixels) for picture in pictures)
    assert numbers == list(range(len(numbers)))
    assert 0.3 * share < len(numbers) / 48 < 1


def test_damage_is_said_where_it_is_reached_and_not_before(assets: Path) -> None:
    path = assets / "clips/corrupt/corrupted.mp4"
    info = probe(path, LIMITS)
    good = [k / 10 for k in range(28)]
    assert len(list(read_frames(path, info, good, (72, 128), "auto", LIMITS))) == 28
    with pytest.raises(VideoError, match="cannot be decoded: Invalid data"):
        list(read_frames(path, info, [*good, 2.8], (72, 128), "auto", LIMITS))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"pixels": 48 * 64 - 1}, r"frames of more than 3,071 pixels \(64 x 48\): data.max_pixels"),
        ({"seconds": 1.9}, r"longer than 1.9 seconds \(2\): data.max_seconds"),
        ({"frames": 47}, "more than 47 frames: data.max_frames"),
    ],
)
@pytest.mark.parametrize("name", ["b_frames", "matroska"])
def test_limits_stop_a_bomb(tmp_path: Path, name: str, limits: dict[str, float], message: str) -> None:
    """By the header; and by what comes, where the header is silent or was believed."""
    path = FILES[name](tmp_path)
    tight = LIMITS._replace(**limits)
    info = probe(path, LIMITS)
    with pytest.raises(VideoError, match=message):
        list(read_frames(path, info, (k / 24 for k in count()), info.size, "pyav", tight))
    if name == "b_frames":
        with pytest.raises(VideoError, match=message):
            probe(path, tight)


def test_a_few_bytes_that_last_for_a_day_are_stopped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "day.mkv", ticks=[0, 50, 1200 * 86400])
    with pytest.raises(VideoError, match=r"longer than 14400 seconds \(86400\)"):
        probe(path, LIMITS)


def test_decoders_that_are_not_there_say_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "plain.mp4", ticks=EVEN[:2])
    info = probe(path, LIMITS)
    for decoder in ("decord", "torchcodec"):
        monkeypatch.setitem(sys.modules, decoder, None)
        monkeypatch.setitem(sys.modules, f"{decoder}.decoders", None)
        with pytest.raises(ConfigError, match=f"'{decoder}', which is not installed here: use data.decoder=pyav"):
            list(read_frames(path, info, [0.0], info.size, decoder, LIMITS))  # type: ignore[arg-type]


def test_the_config_names_the_decoders_that_there_are() -> None:
    assert set(DataConfig.model_fields["decoder"].annotation.__args__) == set(DECODERS)  # type: ignore[union-attr]


def test_names_of_all_kinds_are_opened(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.mp4", ticks=EVEN[:2])
    for name in (
        "with space.mp4",
        "quo'te\".mp4",
        "new\nline.mp4",
        "🎬.mp4",
        "concat:a|b.mp4",
        "%03d.mp4",
        "-i.mp4",
        "\udcff.mp4",
    ):
        path = Path(shutil.copy(plain, tmp_path / name))
        info = probe(path, LIMITS)
        assert len(list(read_frames(path, info, [0.0], info.size, "auto", LIMITS))) == 1


def test_a_process_that_is_forked_while_a_video_is_read_can_let_go_of_it(tmp_path: Path) -> None:
    """As a loader's worker does with what the garbage collector finds; threads do not live on in it."""
    path = FILES["b_frames"](tmp_path)
    limits = DataConfig().limits
    frames = read_frames(path, probe(path, limits), (k / 24 for k in range(48)), (480, 640), "pyav", limits)
    next(frames)
    process = multiprocessing.get_context("fork").Process(target=frames.close)
    process.start()
    process.join(timeout=60)
    process.kill()
    assert process.exitcode == 0
