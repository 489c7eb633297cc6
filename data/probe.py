"""What a video file is, from its header and its first frame: never from all of its frames."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_dit.config import Limits
from video_dit.errors import UserError

PLAYLISTS = frozenset(("hls", "concat", "dash", "webm_dash_manifest", "imf"))
"""Formats of FFmpeg that hold names of other files."""

COLOR_RANGES: dict[int, Literal["limited", "full"]] = {1: "limited", 2: "full"}
"""By ITU-T H.273's number; any other is not said."""

HDR_TRANSFERS: dict[int, Literal["PQ", "HLG"]] = {16: "PQ", 18: "HLG"}
"""By ITU-T H.273's number."""

MICROSECOND = 1e-6

_OPTIONS = {"protocol_whitelist": "file", "pattern_type": "none"}
"""Of av.open: no file names others, on the network or, as image%03d.jpg would, beside it."""


class VideoError(UserError):
    """A file that is no readable video; the message says why."""


def is_image(format_name: str) -> bool:
    """Whether FFmpeg's name of a format is of one for pictures."""
    return format_name == "image2" or format_name.endswith("_pipe")


class Stream(NamedTuple):
    """`kind` is video, audio, subtitle, data or attachment."""

    index: int
    kind: str
    codec: str | None


class VideoInfo(NamedTuple):
    """Of a file, and of the video stream that is read.

    Sizes are (height, width). `coded_size` is of the pixels in the file; `size` is what a player shows: square pixels,
    turned by `quarter_turns` counter-clockwise, after `mirrored` has swapped left and right.
    Times are in seconds. `start` is the file's timestamp of the first frame; elsewhere in this package time counts from
    there. `duration` and `num_frames` are what the header says; None when it says nothing. An image has no duration.
    `tick` is the unit of the timestamps. `hdr` is the transfer of HDR; None for SDR, or when nothing is said.
    """

    format: str
    codec: str
    coded_size: tuple[int, int]
    size: tuple[int, int]
    quarter_turns: int
    mirrored: bool
    sample_aspect_ratio: Fraction
    average_rate: float | None
    nominal_rate: float | None
    variable_rate: bool
    start: float
    duration: float | None
    num_frames: int | None
    tick: Fraction
    stream: int
    streams: tuple[Stream, ...]
    pixel_format: str
    bit_depth: int
    color_range: Literal["limited", "full"] | None
    hdr: Literal["PQ", "HLG"] | None

    @property
    def is_image(self) -> bool:
        """A file of one picture."""
        return is_image(self.format)

    @property
    def knows_length(self) -> bool:
        """Whether it is known how long it shows, or that it shows one picture."""
        return self.duration is not None or self.is_image

    @property
    def lateness(self) -> float:
        """How much later than its time a frame's timestamp may be, because it is a whole tick."""
        return min(float(self.tick), 0.001) + MICROSECOND

    def to_json(self) -> dict[str, Any]:
        values = self._asdict()
        return {**values, "tick": str(self.tick), "sample_aspect_ratio": str(self.sample_aspect_ratio)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "VideoInfo":
        """What `to_json` gave, after JSON has made lists of its tuples."""
        tuples = {name: tuple(values[name]) for name in ("coded_size", "size")}
        fractions = {name: Fraction(values[name]) for name in ("tick", "sample_aspect_ratio")}
        streams = tuple(Stream(*stream) for stream in values["streams"])
        return cls(**{**values, **tuples, **fractions, "streams": streams})


def probe(path: Path, limits: Limits) -> VideoInfo:
    """Reads the header, and decodes one frame, which says how it is turned and when the video begins.

    The stream is the one that FFmpeg takes for the best: a default one before others, then by what it has in it. Where
    the header of a file says nothing of its length, its packets are counted.

    Raises:
        VideoError: the file cannot be opened, has no video, its first frame cannot be decoded, or the limits forbid it.
    """
    with open_video(path) as (container, stream):
        context = stream.codec_context
        if not context.width or not context.height:
            raise VideoError(
                f"has a video stream ({context.codec.canonical_name}) without a size that can be: it is damaged"
            )
        duration, num_frames = _length(path, container, stream)
        coded_size = (context.height, context.width)
        check_limits(coded_size, duration or 0, num_frames or 0, limits)
        first = _first_frame(container, stream)
        average, nominal = stream.average_rate, stream.base_rate
        aspect = stream.sample_aspect_ratio or Fraction(1)
        quarter_turns, mirrored = _orientation(first)
        return VideoInfo(
            format=container.format.name,
            codec=context.codec.canonical_name,
            coded_size=coded_size,
            size=_shown_size(coded_size, aspect, quarter_turns),
            quarter_turns=quarter_turns,
            mirrored=mirrored,
            sample_aspect_ratio=aspect,
            average_rate=float(average) if average else None,
            nominal_rate=float(nominal) if nominal else None,
            variable_rate=bool(average and nominal) and abs(float(average / nominal) - 1) > 0.01,
            start=float(timestamp(first) * stream.time_base),
            duration=duration,
            num_frames=num_frames,
            tick=stream.time_base,
            stream=stream.index,
            streams=tuple(
                Stream(each.index, each.type, each.codec_context and each.codec_context.codec.canonical_name)
                for each in container.streams
            ),
            pixel_format=first.format.name,
            bit_depth=max(component.bits for component in first.format.components),
            color_range=COLOR_RANGES.get(first.color_range),
            hdr=HDR_TRANSFERS.get(first.color_trc),
        )


@contextmanager
def open_video(path: Path, index: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened file and its best video stream, or that of this index. What goes wrong inside is a VideoError too.

    No protocol but that of files is allowed: a file could name others on the network.
    """
    _check_file(path)
    try:
        with av.open(f"file:{path}", metadata_errors="ignore", options=_OPTIONS) as container:
            if container.format.name in PLAYLISTS:
                raise VideoError(f"is a list of other files ({container.format.name}), not a video")
            yield container, _video_stream(container) if index is None else container.streams[index]
    except av.MemoryError as error:
        raise VideoError("asks for more memory than there is: it is damaged") from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(_explain(path, error)) from error


def check_limits(size: tuple[int, int], seconds: float, num_frames: int, limits: Limits) -> None:
    """
    Raises:
        VideoError: a frame of this (height, width), so many seconds or so many frames are too much.
    """
    height, width = size
    if width * height > limits.pixels:
        raise VideoError(
            f"has frames of more than {limits.pixels:,} pixels ({width} x {height}): data.max_pixels allows no more"
        )
    if seconds > limits.seconds:
        raise VideoError(f"is longer than {limits.seconds:g} seconds ({seconds:.0f}): data.max_seconds allows no more")
    if num_frames > limits.frames:
        raise VideoError(f"has more than {limits.frames:,} frames: data.max_frames allows no more")


def timestamp(frame: VideoFrame) -> int:
    """In ticks of its stream; what FFmpeg takes for it where the file gives the order of decoding alone.

    Raises:
        VideoError: there is neither.
    """
    ticks = frame.dts if frame.pts is None else frame.pts
    if ticks is None:
        raise VideoError("has frames without timestamps, as raw streams do: put it into a container such as MP4")
    return ticks


def _video_stream(container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    kinds = sorted({each.type for each in container.streams})
    if stream is None:
        raise VideoError(f"has no video stream, only {', '.join(kinds) or 'nothing'}")
    if stream.disposition & type(stream.disposition).attached_pic:
        raise VideoError("has no video stream, only a cover picture" + (" and audio" if "audio" in kinds else ""))
    if stream.codec_context is None:
        raise VideoError("has a video stream in a codec that is not known here")
    return stream


def _length(path: Path, container: InputContainer, stream: VideoStream) -> tuple[float | None, int | None]:
    """Seconds and number of frames: by the header, or by counting packets where it says nothing of the duration."""
    if is_image(container.format.name):
        return None, 1
    if stream.duration is not None:
        return float(stream.duration * stream.time_base), stream.frames or None
    if container.duration is not None:
        return container.duration / av.time_base, stream.frames or None
    with open_video(path, stream.index) as (again, same):
        times = [(packet.pts, packet.duration or 0) for packet in again.demux(same) if packet.size]
    known = [(begin, begin + length) for begin, length in times if begin is not None]
    if not known:
        return None, len(times)
    return float((max(end for _, end in known) - min(begin for begin, _ in known)) * stream.time_base), len(times)


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    try:
        return next(container.decode(stream))
    except StopIteration:
        raise VideoError("has a video stream without a single frame") from None
    except av.FFmpegError as error:
        raise VideoError(f"has a first frame that cannot be decoded: {reason(error)}") from error


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise, after mirroring; to the nearest one.

    FFmpeg's display matrix (a, b, u; c, d, v; ...) takes (x, y) to (a x + c y, b x + d y), y downwards. Beside
    EXIF, which pictures have, PyAV tells the angle alone.
    """
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        return round(frame.rotation / 90) % 4, False
    if side_data is None:
        return 0, False
    a, b, _, c, d = (int(entry) for entry in np.frombuffer(bytes(side_data), dtype=np.int32)[:5])
    mirrored = a * d - b * c < 0
    return round(math.atan2(c, -a if mirrored else a) / (math.pi / 2)) % 4, mirrored


def _shown_size(coded_size: tuple[int, int], aspect: Fraction, quarter_turns: int) -> tuple[int, int]:
    height, width = coded_size
    width = max(1, round(width * aspect))
    return (width, height) if quarter_turns % 2 else (height, width)


def reason(error: BaseException) -> str:
    """FFmpeg's or the system's words alone."""
    return str(getattr(error, "strerror", None) or error)


def _check_file(path: Path) -> None:
    """What can be said before it is opened; a pipe would be waited for."""
    if path.is_symlink() and not path.exists():
        raise VideoError(f"is a link to {os.readlink(path)!r}, which does not exist")
    if not path.exists():
        raise VideoError("does not exist")
    if path.is_dir():
        raise VideoError("is a folder, not a file")
    if not path.is_file():
        raise VideoError("is no regular file")
    if not os.access(path, os.R_OK):
        raise VideoError("cannot be read: permission denied")
    if not path.stat().st_size:
        raise VideoError("is empty (0 bytes)")


def _explain(path: Path, error: Exception) -> str:
    """What the file is, where that says more than FFmpeg's words."""
    with path.open("rb") as file:
        head = file.read(4096)
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is text, not a video"
    if head[4:8] == b"ftyp" and isinstance(error, av.InvalidDataError):
        return "is an MP4 whose index (moov) is missing or damaged: it was cut off, or never finished"
    return f"cannot be read as a video: {reason(error)}"
