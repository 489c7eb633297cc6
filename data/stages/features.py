"""What is measured of a video's pictures as they come: numbers that do not depend on the size or rate of the video.

Flow is DIS (Kroeger et al. 2016, arXiv 1603.03590); hashes are the 64 bits of the DCT of a 32 x 32 picture that are
known as pHash.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data.decoders import Picture, Size

HEIGHT = 144
"""Pixels of the pictures that are measured, whatever the video's; widths follow its shape."""

MAX_ASPECT = 4
"""Wider pictures are pressed together, and narrower ones stretched, so that none takes much memory."""

FLOW_SECONDS = 0.1
"""The least time between two pictures of which flow is computed; several times as much where a video has fewer."""

TICK = 1e-3
"""Seconds; timestamps may be rounded to it."""

BAR_LEVELS = 10
"""Of 255: within what a bar is uniform, as compression makes noise."""

HASH_SIDE, HASH_INPUT = 8, 32


class Features(NamedTuple):
    """Of one picture; nan where it takes one before it and there is none.

    brightness: mean luma, of 1.
    change: mean absolute difference of the luma from the picture before, of 1.
    sharpness: variance of the Laplacian of the luma, of 255.
    motion: median length of the optical flow, in picture heights per second.
    since: seconds of the picture from which the flow starts.
    bars: shares of the height and the width in uniform rows and columns at the top, bottom, left and right.
    hash: 64 bits.
    """

    brightness: float
    change: float
    sharpness: float
    motion: float
    since: float
    bars: tuple[float, float, float, float]
    hash: int


def working_size(size: Size) -> Size:
    """Of the pictures that are measured, for a video of this (height, width)."""
    height, width = size
    return HEIGHT, round(HEIGHT * min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT))


def to_bgr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] with the channels as OpenCV has them; three times as fast as NumPy."""
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)


class Measure:
    """Takes pictures [H, W, 3] in order, and keeps the luma of two of them."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # preprocessing has a process on each core
        self.before: NDArray[np.uint8] | None = None
        self.flow = _Flow()

    def __call__(self, picture: Picture) -> Features:
        luma = cv2.cvtColor(np.ascontiguousarray(picture.pixels), cv2.COLOR_RGB2GRAY)
        change = np.nan if self.before is None else cv2.norm(luma, self.before, cv2.NORM_L1) / luma.size / 255
        self.before = luma
        motion, since = self.flow(luma, picture.seconds)
        return Features(
            brightness=cv2.mean(luma)[0] / 255,
            change=change,
            sharpness=sharpness(luma),
            motion=motion,
            since=since,
            bars=bars(luma),
            hash=perceptual_hash(luma),
        )


class _Flow:
    """Optical flow over the least time that is FLOW_SECONDS or more, whatever the rate of the video."""

    def __init__(self) -> None:
        self.estimate = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self.start: tuple[NDArray[np.uint8], float] | None = None

    def __call__(self, luma: NDArray[np.uint8], seconds: float) -> tuple[float, float]:
        """Motion and since; nan where not enough time has gone by."""
        if self.start is not None and seconds - self.start[1] < FLOW_SECONDS - TICK:
            return np.nan, np.nan
        start, self.start = self.start, (luma, seconds)
        if start is None:
            return np.nan, np.nan
        flow = self.estimate.calc(start[0], luma, None)
        length = np.median(cv2.magnitude(flow[..., 0], flow[..., 1])) / luma.shape[0]
        return float(length) / (seconds - start[1]), start[1]


def sharpness(luma: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of [H, W]; 0 is a uniform picture."""
    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def bars(luma: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Shares of the rows at the top and the bottom, and of the columns at the left and the right, that are bars.

    A bar is as uniform as BAR_LEVELS says, and as bright as the edge. A uniform picture is all bar from each side.
    """
    top, bottom = _bars(luma.min(1), luma.max(1))
    left, right = _bars(luma.min(0), luma.max(0))
    return top, bottom, left, right


def _bars(lowest: NDArray[np.uint8], highest: NDArray[np.uint8]) -> tuple[float, float]:
    """At the beginning and the end of lines, of each of which this is the lowest and the highest value."""
    shares = []
    for low, high in ((lowest, highest), (lowest[::-1], highest[::-1])):
        spread = np.maximum.accumulate(high).astype(int) - np.minimum.accumulate(low)
        shares.append(int(np.searchsorted(spread, BAR_LEVELS, side="right")) / len(low))
    return shares[0], shares[1]


def perceptual_hash(luma: NDArray[np.uint8]) -> int:
    """64 bits of [H, W]: which of the lowest frequencies are above their median; near for pictures that look alike."""
    small = cv2.resize(luma, (HASH_INPUT, HASH_INPUT), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(small.astype(np.float32))[:HASH_SIDE, :HASH_SIDE]
    bits = np.packbits(lowest > np.median(lowest))
    return int.from_bytes(bits.tobytes(), "big")
