"""Some frames of a clip, for those who look at it: captioners and scorers."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.decoders import read_frames
from data.probe import VideoError, VideoInfo, check_limits
from data.video import cover, frame_times
from video_dit.config import Limits


class ClipFrames(NamedTuple):
    """uint8 [F, H, W, 3] RGB, evenly spread over so many seconds."""

    pixels: NDArray[np.uint8]
    seconds: float


def frames_of(
    path: Path, info: VideoInfo, start: float, seconds: float, fps: float, num_frames: int, height: int, limits: Limits
) -> ClipFrames:
    """Of the frames of a clip those in the middles of `num_frames` equal parts; the same one twice where it has fewer.

    Args:
        path: the video's file.
        info: what `probe` says of it.
        start: of the clip, in seconds from the video's first frame.
        seconds: its length; an image has one frame in any case.
        fps: at which its frames are taken.
        num_frames: how many.
        height: pixels of the shorter side; the aspect stays.
        limits: of what a file may ask for; the scaled frames keep to it too.

    Raises:
        VideoError: they cannot be decoded, or are beyond the limits.
    """
    size = cover(info.size, (height, height))
    check_limits(size, 0, 0, limits)
    of_clip = frame_times(start, 1 if info.is_image else max(1, round(seconds * fps)), fps)
    times = (of_clip[(2 * index + 1) * len(of_clip) // (2 * num_frames)] for index in range(num_frames))
    pixels = [picture.pixels for picture in read_frames(path, info, times, size, "auto", limits)]
    if len(pixels) < num_frames:
        raise VideoError(
            f"ends before the clip from {start:.3f} to {start + seconds:.3f} s does: {len(pixels)} of {num_frames} "
            "frames came"
        )
    return ClipFrames(np.stack(pixels), seconds)
