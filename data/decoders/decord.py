"""Decoding by decord; see `data.decoders` for the files on which it is wrong."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data.decoders.contract import Picture, Size, check_complete
from data.probe import VideoError, VideoInfo, check_limits
from video_dit.config import ConfigError, Limits


def read_frames(path: Path, info: VideoInfo, seconds: Iterable[float], size: Size, limits: Limits) -> Iterator[Picture]:
    """As `data.decoders.read_frames` says.

    Raises:
        ConfigError: decord is not installed.
        VideoError: also for files with several video streams or a mirrored picture, which decord does not tell apart.
    """
    try:
        import decord
    except ImportError as error:
        raise ConfigError("data.decoder is 'decord', which is not installed here: use data.decoder=pyav") from error
    if info.mirrored or sum(stream.kind == "video" for stream in info.streams) > 1:
        raise VideoError(
            "is mirrored or has several video streams, which decord does not handle: use data.decoder=pyav"
        )
    height, width = size
    try:
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=1)
        shown = np.array([reader.get_frame_timestamp(index) for index in range(len(reader))], dtype=np.float64)
        shown -= shown[0, 0]
        end = float(shown[-1, 1])
        check_limits(info.coded_size, end, len(reader), limits)
        for wanted in seconds:
            time = wanted + info.lateness
            if time >= end:
                check_complete(info, len(reader), end)
                return
            index = max(0, int(np.searchsorted(shown[:, 0], time, side="right")) - 1)
            pixels = reader[index].asnumpy()
            if pixels.shape != (height, width, 3):
                raise VideoError(f"gives frames of shape {pixels.shape} in decord: use data.decoder=pyav")
            yield Picture(float(shown[index, 0]), pixels)
    except (decord.DECORDError, decord.DECORDLimitReachedError, IndexError) as error:
        raise VideoError(f"cannot be decoded by decord: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Without the time, the line of C++ and the name of the file."""
    return re.sub(r"^\[.*?\] \S+: (\[[^]]*\] ?)?", "", str(error).splitlines()[0])
