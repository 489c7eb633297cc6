"""What a few lines over PyAV do with a video: the work at the side of which preprocessing is measured."""

from pathlib import Path
from typing import Literal

import av
from av.video.reformatter import VideoReformatter

from data.decoders import Size
from data.probe import VideoInfo

Threads = Literal["NONE", "AUTO"]
"""As PyAV calls them: one, or as many as FFmpeg finds right."""


def frame_times(path: Path, info: VideoInfo) -> list[float]:
    """Of all frames in their order, in seconds from the first one."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        return [frame.time - info.start for frame in container.decode(stream) if frame.time is not None]


def decode_first(path: Path) -> tuple[int, int]:
    """Size of the first frame."""
    with av.open(str(path), metadata_errors="ignore") as container:
        frame = next(container.decode(video=0))
        return frame.height, frame.width


def decode_all(path: Path, info: VideoInfo) -> int:
    """How many frames there are."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        stream.thread_type = "AUTO"
        return sum(1 for _ in container.decode(stream))


def decode_and_resize(
    path: Path, info: VideoInfo, size: Size, threads: Threads, fps: float | None = None, skip_frame: str = "DEFAULT"
) -> int:
    """How many frames were made RGB of this size: all that are decoded, or as many as `fps` says."""
    height, width = size[::-1] if info.quarter_turns % 2 else size
    reformatter, count = VideoReformatter(), 0
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        num_threads = 1 if threads == "NONE" else 0
        stream.thread_type, stream.thread_count = threads, num_threads
        stream.codec_context.skip_frame = skip_frame
        for frame in container.decode(stream):
            if fps is None or frame.time - info.start >= count / fps:
                scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=num_threads)
                scaled.to_ndarray()
                count += 1
    return count
