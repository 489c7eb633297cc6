"""Small video files of all kinds, made here; each frame shows its number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.stream import Disposition
from numpy.typing import NDArray

BITS = 8
TICKS, RATE = 1200, 24
"""Per second."""

EVEN = range(0, 48 * 50, 50)
"""Two seconds' ticks at that rate."""

UNEVEN = tuple(np.cumsum([0, *([50, 20, 150, 40, 40, 300] * 8)])[:48].tolist())


def numbered(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """[H, W, 3]: the number's bits as white columns on black in the upper half, the lowest at the left; grey below."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[height // 2 :] = 60 + number // 2
    for bit in range(BITS):
        if number >> bit & 1:
            picture[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = 230
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """What `numbered` put there, whatever the size now is."""
    height, width, _ = picture.shape
    row = picture[: height // 2].mean((0, 2))
    columns = [row[bit * width // BITS : (bit + 1) * width // BITS].mean() > 120 for bit in range(BITS)]
    return sum(int(white) << bit for bit, white in enumerate(columns))


def write_video(
    path: Path,
    codec: str = "libx264",
    ticks: Sequence[int] = EVEN,
    options: Mapping[str, str] | None = None,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    setup: Callable[[av.VideoStream], None] = lambda _: None,
    time_base: Fraction = Fraction(1, TICKS),
    picture: Callable[[int, int, int], NDArray[np.uint8]] = numbered,
) -> Path:
    """A file of one video stream, whose frame k has the number k and shows at `ticks[k]`; skips without the codec."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=dict(options or {}))
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        stream.time_base = stream.codec_context.time_base = time_base
        setup(stream)
        _encode(container, stream, [(tick, picture(number, *size)) for number, tick in enumerate(ticks)])
    return path


def _encode(
    container: OutputContainer, stream: av.VideoStream, pictures: Iterable[tuple[int, NDArray[np.uint8]]]
) -> None:
    for tick, pixels in pictures:
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt, dst_color_range=stream.codec_context.color_range or 1)
        frame.pts, frame.time_base = tick, Fraction(1, TICKS)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def copy_from(source: Path, target: Path, first_packet: int, shift: int = 0) -> Path:
    """Copies the packets from one on, in the order of decoding, with their timestamps moved by so many ticks."""

    def moved(index: int, packet: av.Packet) -> bool:
        packet.pts += round(shift / TICKS / packet.time_base)
        packet.dts += round(shift / TICKS / packet.time_base)
        return index >= first_packet

    return remux(source, target, {}, moved)


def remux(
    source: Path,
    target: Path,
    options: Mapping[str, str],
    keep: Callable[[int, av.Packet], bool] = lambda index, packet: True,
) -> Path:
    """Copies the packets that `keep`, which may change them, takes; nothing is encoded again."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=dict(options)) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(old.demux(video=0)):
            if packet.size and keep(index, packet):
                packet.stream = stream
                new.mux(packet)
    return target


def with_index_in_front(source: Path) -> Path:
    """As files for the web have it: what is cut off at the end still opens."""
    return remux(source, source.with_stem(f"{source.stem}_fast"), {"movflags": "+faststart"})


B_FRAMES = {"bf": "3", "g": "12", "x264-params": "b-adapt=0:scenecut=0"}
MPEG = {"bf": "2", "g": "12"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"}


def _edit_list(folder: Path) -> Path:
    """Five frames lie before the beginning of time."""
    return copy_from(write_video(folder / "whole.mp4", options=B_FRAMES), folder / "edit_list.mp4", 0, shift=-250)


def _cut(folder: Path) -> Path:
    """Begins at a keyframe that is followed by frames which need those before it."""
    return copy_from(write_video(folder / "whole.mp4", options=OPEN_GOP), folder / "cut.mp4", 12)


def _held(folder: Path) -> Path:
    """The last frame shows for a second."""

    def hold(index: int, packet: av.Packet) -> bool:
        if index == len(EVEN) - 1:
            packet.duration = round(1 / packet.time_base)
        return True

    return remux(write_video(folder / "whole.mp4", options={"bf": "0"}), folder / "held.mp4", {}, hold)


def _two_streams(folder: Path) -> Path:
    """The second is the default one; its numbers begin at 0, and those of the first at 100."""
    path = folder / "two_streams.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=RATE) for _ in range(2)]
        for stream, (stream.height, stream.width) in zip(streams, ((16, 32), (48, 64)), strict=True):
            stream.pix_fmt = "yuv420p"
        streams[1].disposition = Disposition.default
        for stream, first in zip(streams, (100, 0), strict=True):
            pictures = [(tick, numbered(first + k, stream.height, stream.width)) for k, tick in enumerate(EVEN)]
            _encode(container, stream, pictures)
    return path


def _full_range(stream: av.VideoStream) -> None:
    stream.codec_context.color_range = 2


def _wide_pixels(stream: av.VideoStream) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)


FILES: dict[str, Callable[[Path], Path]] = {
    "b_frames": lambda f: write_video(f / "b_frames.mp4", options=B_FRAMES),
    "open_gop": lambda f: write_video(f / "open_gop.mp4", options=OPEN_GOP),
    "one_gop": lambda f: write_video(f / "one_gop.mp4", options={"g": "250"}),
    "matroska": lambda f: write_video(f / "b_frames.mkv", options=B_FRAMES),
    "transport_stream": lambda f: write_video(f / "open_gop.ts", options=OPEN_GOP),
    "hevc": lambda f: write_video(
        f / "hevc.mp4", "libx265", options={"x265-params": "keyint=12:min-keyint=12:log-level=none"}
    ),
    "hevc_10_bits": lambda f: write_video(
        f / "hevc10.mp4", "libx265", options={"x265-params": "keyint=12:log-level=none"}, pixel_format="yuv420p10le"
    ),
    "h264_10_bits": lambda f: write_video(f / "h264_10.mp4", options=B_FRAMES, pixel_format="yuv420p10le"),
    "variable_rate": lambda f: write_video(f / "vfr.mp4", ticks=UNEVEN, options=B_FRAMES),
    "late_start": lambda f: write_video(f / "late.mp4", ticks=range(6000, 8400, 50), options=B_FRAMES),
    "odd_size": lambda f: write_video(f / "odd.mp4", size=(49, 67), pixel_format="yuv444p", options=B_FRAMES),
    "odd_size_vp9": lambda f: write_video(f / "odd.webm", "libvpx-vp9", size=(49, 67), options={"g": "12"}),
    "av1": lambda f: write_video(
        f / "av1.mp4", "libsvtav1", size=(64, 64), options={"g": "12", "preset": "12", "svtav1-params": "lp=1"}
    ),
    "avi_mpeg4": lambda f: write_video(f / "b_frames.avi", "mpeg4", options=MPEG, time_base=Fraction(1, RATE)),
    "mpeg2_program_stream": lambda f: write_video(
        f / "mpeg2.mpg", "mpeg2video", options=MPEG, time_base=Fraction(1, RATE)
    ),
    "wide_pixels": lambda f: write_video(f / "wide.mp4", setup=_wide_pixels, options=B_FRAMES),
    "full_range": lambda f: write_video(f / "full.mp4", setup=_full_range, options=B_FRAMES),
    "edit_list": _edit_list,
    "cut": _cut,
    "two_streams": _two_streams,
    "gif": lambda f: write_video(f / "animated.gif", "gif", ticks=range(0, 480, 60), pixel_format="rgb8"),
    "held": _held,
    "one_frame": lambda f: write_video(f / "one.mp4", ticks=[0]),
    **{
        f"turned_{angle}": lambda f, angle=angle: write_video(
            f / f"turned_{angle}.mp4", setup=lambda stream: stream.set_display_rotation(angle), options=B_FRAMES
        )
        for angle in (90, 180, 270)
    },
    "mirrored": lambda f: write_video(
        f / "mirrored.mp4", setup=lambda stream: stream.set_display_rotation(90, hflip=True), options=B_FRAMES
    ),
}
"""Makes each file in a folder."""
