"""What a decoder takes and gives."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.probe import VideoError, VideoInfo
from video_dit.config import Limits

Size = tuple[int, int]
"""(height, width)"""


class Picture(NamedTuple):
    """A frame: seconds from the first one of the video, and [H, W, 3] RGB."""

    seconds: float
    pixels: NDArray[np.uint8]


class Decoder(Protocol):
    """A module's `read_frames`; the arguments are those of `data.decoders.read_frames`."""

    def __call__(
        self, path: Path, info: VideoInfo, seconds: Iterable[float], size: Size, limits: Limits
    ) -> Iterator[Picture]: ...


def check_complete(info: VideoInfo, num_frames: int, end: float) -> None:
    """That all came which the header promised, by their number and by when the last one ends.

    Files whose edit list leaves frames out have fewer than the header says, but they last as long.

    Raises:
        VideoError: the file was cut off.
    """
    if info.num_frames is None or info.duration is None or num_frames >= info.num_frames:
        return
    if end < info.duration * (1 - 1 / info.num_frames) - info.lateness:
        raise VideoError(
            f"ends after {num_frames:,} of the {info.num_frames:,} frames that its header promises: it was cut off"
        )
