"""One cheap pass over a video: what is measured of its pictures, and its shots."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.decoders import ReferenceFrames
from data.probe import VideoError, VideoInfo
from data.stages.features import Features, Measure, working_size
from data.stages.shots import Range, build_detector
from video_dit.config import Limits, ShotsConfig


class Scan(NamedTuple):
    """Of the N pictures of a video that were looked at.

    seconds: [N], from the first frame on.
    features: [N], by the names of `Features`.
    shots: [S, 2] seconds; a frame that shows between the two is of this shot and no other.
    problem: why what follows could not be decoded.
    """

    seconds: NDArray[np.float64]
    features: dict[str, NDArray[np.generic]]
    shots: NDArray[np.float64]
    problem: str | None

    def to_bytes(self) -> bytes:
        """The same for the same scan; about 60 bytes for each picture."""
        file = io.BytesIO()
        arrays = {"seconds": self.seconds, "shots": self.shots, **self.features}
        np.savez(file, problem=np.array(self.problem or ""), allow_pickle=False, **arrays)
        return file.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> "Scan":
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        problem = str(arrays.pop("problem"))
        return Scan(arrays.pop("seconds"), shots=arrays.pop("shots"), features=arrays, problem=problem or None)

    @staticmethod
    def of_nothing(problem: str) -> "Scan":
        """Where no picture could be looked at."""
        features = {name: np.zeros((0, 4) if name == "bars" else 0, kind) for name, kind in KINDS.items()}
        return Scan(np.zeros(0), features, np.zeros((0, 2)), problem)


KINDS = {
    "brightness": np.float32,
    "change": np.float32,
    "sharpness": np.float32,
    "motion": np.float32,
    "since": np.float64,
    "bars": np.float32,
    "hash": np.uint64,
}
"""Of numpy, by the names of `Features`."""


def scan(path: Path, info: VideoInfo, config: ShotsConfig, limits: Limits) -> Scan:
    """Looks at a video once, at a fixed small size; keeps a few numbers of each picture, and no picture.

    What can be decoded of a damaged file is kept, and `problem` says what hinders the rest.

    Raises:
        ConfigError: the detector is not installed.
    """
    frames = ReferenceFrames(path, info, working_size(info.size), limits)
    detector, measure = build_detector(config), Measure()
    seconds: list[float] = []
    rows: list[Features] = []
    problem = None
    try:
        for picture in frames:
            detector.add(picture.pixels)
            rows.append(measure(picture))
            seconds.append(picture.seconds)
    except VideoError as error:
        problem = str(error)
    features = {name: np.array([getattr(row, name) for row in rows], kind) for name, kind in KINDS.items()}
    times = np.array(seconds, np.float64)
    return Scan(times, features, _in_seconds(detector.shots(), times, frames.end, info), problem)


def _in_seconds(shots: list[Range], seconds: NDArray[np.float64], end: float, info: VideoInfo) -> NDArray[np.float64]:
    """From the first looked-at frame of a shot to the end of its last one: those between two shots may be of either.

    Frames last no longer than at the higher of the rates that the header says. The first shot begins with the video.
    """
    shortest = 1 / max(info.average_rate or np.inf, info.nominal_rate or np.inf)
    times = []
    for first, stop in shots:
        until = end if stop == len(seconds) else min(float(seconds[stop - 1]) + shortest, float(seconds[stop]))
        times.append((float(seconds[first]) if first else 0.0, until))
    return np.array(times, dtype=np.float64).reshape(-1, 2)
