"""Video files: what the header says, frames at a wished rate and size, and writing MP4.

The only place that knows PyAV and decord.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from video_dit.config import ConfigError, DataConfig
from video_dit.errors import UserError

_BT601, _LIMITED, _BT709 = 6, 1, 1
"""ITU-T H.273's numbers for matrix, range, primaries and transfer. swscale converts RGB with the matrix of BT.601."""

Frames = NDArray[np.uint8]
"""[F, H, W, 3] RGB."""


class Picture(NamedTuple):
    """A decoded frame, scaled: seconds since the first one, [H, W, 3] RGB, and (height, width) before the scaling."""

    seconds: float
    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]


class Window(NamedTuple):
    """Frames [F, H, W, 3], (height, width) of the source, and the rows and columns cut off at its top and left."""

    frames: Frames
    source_size: tuple[int, int]
    crop: tuple[int, int]


class VideoError(UserError):
    """A file that is no readable video; the message says why."""


class VideoInfo(NamedTuple):
    """What the header says; `duration` in seconds, None when it says nothing."""

    width: int
    height: int
    fps: float
    duration: float | None
    codec: str


def probe(path: Path) -> VideoInfo:
    """Reads the header alone.

    Raises:
        VideoError: the file cannot be opened or has no video.
    """
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = _video_stream(container)
            duration = None
            if stream.duration is not None and stream.time_base is not None:
                duration = float(stream.duration * stream.time_base)
            elif container.duration is not None:
                duration = container.duration / av.time_base
            fps = float(stream.average_rate or 0)
            return VideoInfo(stream.width, stream.height, fps, duration, stream.codec_context.name)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be opened: {_reason(error)}") from error


def read_windows(path: Path, config: DataConfig) -> Iterator[Window]:
    """The video at the config's rate and size, cut into windows of `num_frames`, end to end; a rest is left out.

    The frame at time k / fps is the one that a player would show then.

    Raises:
        VideoError: decoding fails; the windows before it have been yielded.
    """
    decode = {"pyav": _decode_pyav, "decord": _decode_decord}[config.decoder]
    frames: list[NDArray[np.uint8]] = []
    for picture in _resample(decode(path, config.height, config.width), config.fps):
        rows, columns, _ = picture.pixels.shape
        top, left = (rows - config.height) // 2, (columns - config.width) // 2
        frames.append(picture.pixels[top : top + config.height, left : left + config.width])
        if len(frames) == config.num_frames:
            yield Window(np.stack(frames), picture.source_size, (top, left))
            frames = []


def write_mp4(path: Path, frames: Frames, fps: float) -> None:
    """H.264 in yuv420p with the index in front, which every player and browser shows, also while it loads.

    The format wants even sizes: an odd one gains a copy of its last row or column.
    """
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}  # bitexact leaves the time of writing out
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # several were seen to write other bytes now and then
        # Without these, players guess from the size.
        context.colorspace, context.color_range = _BT601, _LIMITED
        context.color_primaries, context.color_trc = _BT709, _BT709
        for frame in np.ascontiguousarray(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _video_stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError(f"has no video stream, only {', '.join(kinds) or 'nothing'}")
    return container.streams.video[0]


def _decode_pyav(path: Path, height: int, width: int) -> Iterator[Picture]:
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = _video_stream(container)
            stream.thread_type = "AUTO"
            first_time = None
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                first_time = frame.time if first_time is None else first_time
                quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise
                coded_size = (frame.height, frame.width)
                turned = quarter_turns % 2 == 1
                rows, columns = _cover(coded_size, (width, height) if turned else (height, width))
                scaled = frame.reformat(columns, rows, format="rgb24", interpolation="AREA").to_ndarray()
                shown_size = coded_size[::-1] if turned else coded_size
                yield Picture(frame.time - first_time, np.rot90(scaled, quarter_turns), shown_size)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be decoded: {_reason(error)}") from error


def _decode_decord(path: Path, height: int, width: int) -> Iterator[Picture]:
    try:
        import decord
    except ImportError as error:
        raise ConfigError("data.decoder is 'decord', which is not installed here: use data.decoder=pyav") from error
    try:
        probed = decord.VideoReader(str(path))
        source_size = probed[0].shape[:2]
        rows, columns = _cover(source_size, (height, width))
        reader = decord.VideoReader(str(path), width=columns, height=rows)
        first_time = reader.get_frame_timestamp(0)[0]
        for index in range(len(reader)):
            seconds = float(reader.get_frame_timestamp(index)[0] - first_time)
            yield Picture(seconds, reader[index].asnumpy(), source_size)
    except (decord.DECORDError, decord.DECORDLimitReachedError, IndexError) as error:
        raise VideoError(f"cannot be decoded by decord: {str(error).splitlines()[0]}") from error


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _cover(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) with the aspect of `size` that covers the target."""
    scale = max(target[0] / size[0], target[1] / size[1])
    return max(target[0], round(size[0] * scale)), max(target[1], round(size[1] * scale))


def _resample(pictures: Iterator[Picture], fps: float) -> Iterator[Picture]:
    """The picture that shows at each k / fps."""
    rounding = 1e-6
    shown, gap, index = None, 1 / fps, 0
    for picture in pictures:
        if shown is not None:
            gap = picture.seconds - shown.seconds
            while index / fps < picture.seconds - rounding:
                yield shown
                index += 1
        shown = picture
    while shown is not None and index / fps < shown.seconds + gap - rounding:  # the last as long as the one before
        yield shown
        index += 1
