"""Frames of a video at given times and of a given size, by one of several libraries."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from data.decoders import decord, pyav, torchcodec
from data.decoders.contract import Decoder, Picture, Size
from data.probe import VideoInfo
from video_dit.config import Limits

__all__ = ["DECODERS", "Picture", "Size", "read_frames"]

DECODERS: dict[str, Decoder] = {
    "pyav": pyav.read_frames,
    "decord": decord.read_frames,
    "torchcodec": torchcodec.read_frames,
    "auto": pyav.read_frames,
}


def read_frames(
    path: Path,
    info: VideoInfo,
    seconds: Iterable[float],
    size: Size,
    decoder: Literal["auto", "pyav", "decord", "torchcodec"],
    limits: Limits,
) -> Iterator[Picture]:
    """The frame that a player shows at each of these times, scaled to `size` and turned as it is shown.

    Nothing is kept between calls, and nothing is shared: a call can run in any process.

    Args:
        path: the file.
        info: what `probe` says of it.
        seconds: from the first frame on, ascending; an endless iterable gives the whole video. After its end, nothing
            is yielded.
        size: (height, width) of the frames; those of another shape are stretched to it.
        decoder: who decodes.
        limits: of what a file may ask for.

    Raises:
        VideoError: decoding fails, the file is shorter than its header says, or it is beyond the limits. What can be
            decoded has been yielded before.
    """
    return DECODERS[decoder](path, info, seconds, size, limits)
