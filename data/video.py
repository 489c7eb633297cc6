"""Clips cut from video files, and writing MP4."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from data.decoders import Size, read_frames
from data.probe import VideoError, VideoInfo, probe
from video_dit.config import DataConfig
from video_dit.shapes import Grid

_BT601, _LIMITED, _BT709 = 6, 1, 1
"""ITU-T H.273's numbers for matrix, range, primaries and transfer. swscale converts RGB with the matrix of BT.601."""

Frames = NDArray[np.uint8]
"""[F, H, W, 3] RGB."""


class Window(NamedTuple):
    """Frames [F, H, W, 3], (height, width) of the source, and the rows and columns cut off at its top and left."""

    frames: Frames
    source_size: Size
    crop: tuple[int, int]


def read_windows(path: Path, config: DataConfig, info: VideoInfo | None = None) -> Iterator[Window]:
    """The video at the config's rate and size, cut into windows of `num_frames`, end to end; a rest is left out.

    The frame at time k / fps is the one that a player would show then. `info` is what `probe` said, if it was asked.

    Raises:
        VideoError: the file cannot be read, or decoding fails; the windows before it have been yielded.
    """
    info = info or probe(path, config.limits)
    size, (top, left) = cover_and_crop(info.size, (config.height, config.width))
    times = (index / config.fps for index in count())
    frames: list[NDArray[np.uint8]] = []
    for picture in read_frames(path, info, times, size, config.decoder, config.limits):
        frames.append(picture.pixels[top : top + config.height, left : left + config.width])
        if len(frames) == config.num_frames:
            yield Window(np.stack(frames), info.size, (top, left))
            frames = []


def read_clips(
    path: Path, info: VideoInfo, starts: Sequence[float], grid: Grid, config: DataConfig
) -> Iterator[tuple[int, Window]]:
    """The clips of one video that start at these seconds, each with its index, as they are complete.

    The frame at each of `frame_times` is the one that a player would show then. Clips that overlap share what is
    decoded.

    Args:
        path: the file.
        info: what `probe` says of it.
        starts: seconds from its first frame.
        grid: frames, height and width of each clip.
        config: its fps, decoder and limits are read.

    Raises:
        VideoError: decoding fails, or the video ends before the last clip does; what was complete has been yielded.
    """
    size, (top, left) = cover_and_crop(info.size, grid[1:])
    wanted = sorted(
        (time, index) for index, start in enumerate(starts) for time in frame_times(start, grid.frames, config.fps)
    )
    frames: dict[int, list[NDArray[np.uint8]]] = {index: [] for index in range(len(starts))}
    pictures = read_frames(path, info, (time for time, _ in wanted), size, config.decoder, config.limits)
    for picture, (_, index) in zip(pictures, wanted, strict=False):
        frames[index].append(picture.pixels[top : top + grid.height, left : left + grid.width])
        if len(frames[index]) == grid.frames:
            yield index, Window(np.stack(frames.pop(index)), info.size, (top, left))
    if frames:
        raise VideoError(f"ends before its clip at {min(starts[index] for index in frames):.2f} seconds does")


def frame_times(start: float, num_frames: int, fps: float) -> list[float]:
    """When the frames of a clip that starts at `start` show, in seconds from the video's first frame."""
    return [start + index / fps for index in range(num_frames)]


def cover_and_crop(size: Size, target: Size) -> tuple[Size, tuple[int, int]]:
    """What a source of this size is scaled to, and the rows and columns that are then cut off at its top and left."""
    rows, columns = cover(size, target)
    return (rows, columns), ((rows - target[0]) // 2, (columns - target[1]) // 2)


_X264 = {"crf": "16", "x264-params": "no-mbtree=1"}
"""With its macroblock tree, or several threads, x264 was seen to write other bytes for the same frames now and then."""


def write_mp4(path: Path, frames: Frames, fps: float) -> None:
    """H.264 in yuv420p with the index in front, which every player and browser shows, also while it loads.

    The format wants even sizes: an odd one gains a copy of its last row or column.
    """
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    options = {"fflags": "+bitexact", "movflags": "+faststart"}  # bitexact leaves the time of writing out
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        # Without these, players guess from the size.
        context.colorspace, context.color_range = _BT601, _LIMITED
        context.color_primaries, context.color_trc = _BT709, _BT709
        for frame in np.ascontiguousarray(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def cover(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) with the aspect of `size` that covers the target."""
    scale = max(target[0] / size[0], target[1] / size[1])
    return max(target[0], round(size[0] * scale)), max(target[1], round(size[1] * scale))
