"""Decoding by torchcodec, which is optional: it brings no FFmpeg, but loads that of the system."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data.decoders.contract import Picture, Size, check_complete
from data.probe import VideoError, VideoInfo, check_limits
from video_dit.config import ConfigError, Limits

VERSION = "0.13.0"
"""0.11.1 to 0.13.0 load with torch 2.13; 0.14.0 does not."""


def read_frames(path: Path, info: VideoInfo, seconds: Iterable[float], size: Size, limits: Limits) -> Iterator[Picture]:
    """As `data.decoders.read_frames` says.

    Raises:
        ConfigError: torchcodec is not installed, or does not load.
        VideoError: also for files with a mirrored picture, which torchcodec does not show as players do.
    """
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError) as error:
        problem = "is not installed" if isinstance(error, ImportError) else "finds no FFmpeg of versions 4 to 8"
        raise ConfigError(
            f"data.decoder is 'torchcodec', which {problem} here: use data.decoder=pyav, or install "
            f"torchcodec=={VERSION} and FFmpeg's shared libraries"
        ) from error
    if info.mirrored:
        raise VideoError("is mirrored, which torchcodec does not handle: use data.decoder=pyav")
    try:
        decoder = VideoDecoder(
            str(path),
            stream_index=info.stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            transforms=[Resize(size)],
        )
        begin, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
        check_limits(info.coded_size, end - begin, decoder.metadata.num_frames, limits)
        for wanted in seconds:
            time = begin + wanted + info.lateness
            if time >= end:
                check_complete(info, decoder.metadata.num_frames, end - begin)
                return
            frame = decoder.get_frame_played_at(time)
            yield Picture(frame.pts_seconds - begin, frame.data.numpy())
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"cannot be decoded by torchcodec: {str(error).splitlines()[0]}") from error
