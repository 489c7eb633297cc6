"""Clips of bounded length, cut from the shots of a video, each with its scores."""

import math
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.probe import MICROSECOND, VideoInfo
from data.stages.scan import Scan
from data.video import frame_times
from video_dit.config import ShotsConfig

NUM_HASHES = 4
"""Perceptual hashes that a clip has, at the middles of as many equal parts."""


class Clip(NamedTuple):
    """A part of a shot, from which frames are taken at `frame_times`.

    id: VIDEO#NUMBER, which counts the clips of a video from 0.
    start: seconds from the video's first frame.
    seconds: number of frames / fps.
    shot: its number in the video.
    scores: brightness, change, bars, motion and sharpness, as the config's [filters] says; only those that there are: a
        clip of one looked-at picture has no motion.
    hashes: 64 bits each, of some of its pictures.
    """

    id: str
    start: float
    seconds: float
    shot: int
    scores: dict[str, float]
    hashes: tuple[int, ...]


class Lengths(NamedTuple):
    """Frames per second, and the most and the fewest frames of a clip."""

    fps: float
    longest: int
    shortest: int


def cut(video: str, scan: Scan, info: VideoInfo, config: ShotsConfig, lengths: Lengths) -> list[Clip]:
    """The clips of a video that was scanned, in order.

    In a shot, each begins a stride after the one before it, or where that ends. What is left of a shot is a clip too,
    unless it has fewer frames than the shortest. All frames of a clip show within its shot. An image is a clip of one
    frame.

    Args:
        video: its id.
        config: of it, `min_seconds` and `stride`.
    """
    clips: list[Clip] = []
    for shot, (begin, end) in enumerate(scan.shots.tolist()):
        for start, num_frames in _pieces(begin, end, info, config, lengths):
            last = frame_times(start, num_frames, lengths.fps)[-1]
            first, stop = _pictures(scan.seconds, begin, start + info.lateness, last + info.lateness)
            scores, hashes = _scores(scan, first, stop), _hashes(scan, first, stop)
            clips.append(Clip(f"{video}#{len(clips)}", start, num_frames / lengths.fps, shot, scores, hashes))
    return clips


def whole(video: str, info: VideoInfo, config: ShotsConfig, lengths: Lengths) -> list[Clip]:
    """The clips of a video that was not scanned: one shot, as long as the header says, without scores.

    None where the header does not say how long.
    """
    pieces = _pieces(0.0, info.duration or 0.0, info, config, lengths)
    return [
        Clip(f"{video}#{index}", start, num_frames / lengths.fps, 0, {}, ())
        for index, (start, num_frames) in enumerate(pieces)
    ]


def _pieces(
    begin: float, end: float, info: VideoInfo, config: ShotsConfig, lengths: Lengths
) -> Iterator[tuple[float, int]]:
    """The start and the number of frames of each clip of a shot; frames that are late show before its end too."""
    fps, longest, shortest = lengths
    lateness = info.lateness
    if info.is_image:
        if shortest == 1:
            yield begin, 1
        return
    if end - begin < config.min_seconds - lateness:
        return
    for number in count():
        offset = number * (config.stride or longest / fps)
        left = math.ceil((end - begin - offset - lateness) * fps)
        if left < shortest:
            return
        yield begin + offset, min(left, longest)
        if left <= longest:
            return


def _pictures(seconds: NDArray[np.float64], begin: float, start: float, last: float) -> tuple[int, int]:
    """The range of the looked-at pictures of a shot, which begins at `begin`, that show from `start` to `last`."""
    of_shot, later, stop = np.searchsorted(seconds, (begin - MICROSECOND, start, last), side="right").tolist()
    first = max(of_shot, later - 1)
    return first, max(stop, first + 1)


def _scores(scan: Scan, first: int, stop: int) -> dict[str, float]:
    """Means over pictures; bars are those that are in all of them. What starts before the first one does not count."""
    of_clip = {name: values[first:stop] for name, values in scan.features.items()}
    top, bottom, left, right = of_clip["bars"].min(0)
    within = of_clip["since"] >= scan.seconds[first]
    scores = {
        "brightness": _mean(of_clip["brightness"]),
        "change": _mean(of_clip["change"][1:]),
        "bars": 1 - max(0.0, 1 - float(top + bottom)) * max(0.0, 1 - float(left + right)),
        "motion": _mean(of_clip["motion"][within]),
        "sharpness": _mean(of_clip["sharpness"]),
    }
    return {name: score for name, score in scores.items() if math.isfinite(score)}


def _mean(values: NDArray[np.floating]) -> float:
    """Nan of none."""
    return float(values.mean(dtype=np.float64)) if len(values) else math.nan


def _hashes(scan: Scan, first: int, stop: int) -> tuple[int, ...]:
    """Of the pictures at the middles of equal parts; fewer where there are fewer pictures."""
    middles = (np.arange(NUM_HASHES) + 0.5) / NUM_HASHES
    indices = np.unique(first + ((stop - first) * middles).astype(int))
    return tuple(scan.features["hash"][indices].tolist())
