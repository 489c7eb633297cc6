"""What is measured, against closed forms and videos of which it is known."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from data.decoders import Picture, read_frames
from data.probe import probe
from data.stages.clips import Clip, Lengths, cut
from data.stages.features import Measure, bars, perceptual_hash, sharpness
from data.stages.scan import scan
from data.video import write_mp4
from video_dit.config import DataConfig, ShotsConfig

LIMITS = DataConfig().limits
ONE_SHOT = ShotsConfig(detector="none")

Frames = NDArray[np.uint8]


def texture(seed: int, height: int, width: int, detail: float = 0.06) -> Image.Image:
    """Smooth blobs of this share of the height, in all colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(detail * height)), dtype=float)
    return Image.fromarray((127 + 50 * (blurred - blurred.mean()) / blurred.std()).clip(0, 255).astype(np.uint8))


def moving(speed: float, fps: float, height: int, seconds: float = 1.5) -> Frames:
    """A texture that moves to the right and down, in a fixed direction, by so many heights per second."""
    large = texture(0, 720, 1440)
    frames = []
    for index in range(round(seconds * fps)):
        way = speed * 720 * index / fps
        box = (400 - 0.8 * way, 200 - 0.6 * way, 400 - 0.8 * way + 426, 200 - 0.6 * way + 240)
        frames.append(np.asarray(large.resize((round(height * 426 / 240), height), Image.Resampling.BICUBIC, box)))
    return np.stack(frames)


def scores(path: Path, frames: Frames, fps: float) -> Clip:
    """The clip of a whole video."""
    write_mp4(path, frames, fps)
    return clip_of(path)


def clip_of(path: Path) -> Clip:
    info = probe(path, LIMITS)
    (clip,) = cut("video", scan(path, info, ONE_SHOT, LIMITS), info, ONE_SHOT, Lengths(4.0, 1000, 1))
    return clip


@pytest.mark.parametrize(("fps", "height"), [(12, 120), (24, 120), (30, 240), (60, 96)])
def test_motion_is_heights_per_second_whatever_the_rate_and_size(tmp_path: Path, fps: float, height: int) -> None:
    """The box is a third of the texture's height."""
    for speed in (0.05, 0.2, 0.5, 1.0):
        clip = scores(tmp_path / "moving.mp4", moving(speed / 3, fps, height, seconds=0.8), fps)
        assert clip.scores["motion"] == pytest.approx(speed, rel=0.08)


def test_a_frozen_video_has_no_motion_and_no_change(tmp_path: Path) -> None:
    still = moving(0, 24, 120)
    frozen = scores(tmp_path / "frozen.mp4", still, 24).scores
    slow = scores(tmp_path / "slow.mp4", moving(0.01, 24, 120), 24).scores
    assert frozen["motion"] < 0.002 < 0.02 < slow["motion"]
    assert frozen["change"] < 0.0005 < slow["change"]


def test_frozen_frames_of_real_clips_change_less_than_most_real_clips(tmp_path: Path, assets: Path) -> None:
    """Some scenes are as good as still."""
    real, frozen = [], []
    for path in sorted((assets / "camera-128").rglob("*.mp4"))[::20]:
        info = probe(path, LIMITS)
        (first,) = read_frames(path, info, [0.0], info.size, "auto", LIMITS)
        real.append(clip_of(path).scores)
        frozen.append(scores(tmp_path / "frozen.mp4", np.stack([first.pixels] * 16), 10).scores)
    assert max(each["motion"] for each in frozen) < 0.002 < np.median([each["motion"] for each in real])
    assert max(each["change"] for each in frozen) < 0.0005 < np.quantile([each["change"] for each in real], 0.15)


@pytest.mark.parametrize("level", [0, 51, 204])
def test_brightness_and_change_of_uniform_pictures(level: int) -> None:
    measure = Measure()
    first = measure(Picture(0.0, np.full((20, 30, 3), level, dtype=np.uint8)))
    second = measure(Picture(0.1, np.full((20, 30, 3), level + 51, dtype=np.uint8)))
    assert first.brightness == pytest.approx(level / 255)
    assert np.isnan(first.change)
    assert second.change == pytest.approx(0.2)
    assert (second.since, second.motion, second.sharpness) == (0.0, 0.0, 0.0)


def test_brightness_is_luma() -> None:
    """ITU-R BT.601's weights."""
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        pixels = np.zeros((20, 30, 3), dtype=np.uint8)
        pixels[..., channel] = 200
        assert Measure()(Picture(0.0, pixels)).brightness == pytest.approx(weight * 200 / 255, abs=2e-3)


@pytest.mark.parametrize("period", [4, 8, 16])
def test_sharpness_of_a_wave(period: int) -> None:
    """Second differences of A cos(w x) are (2 cos w - 2) A cos(w x): of that amplitude, half the square."""
    wave = 127 + 100 * np.cos(2 * np.pi * np.arange(16 * 20 + 1) / period)  # ends as it begins: on a peak
    luma = np.tile(np.round(wave).astype(np.uint8), (40, 1))
    expected = (100 * (2 - 2 * np.cos(2 * np.pi / period))) ** 2 / 2
    assert sharpness(luma) == pytest.approx(expected, rel=0.03)


def test_blur_lowers_sharpness(tmp_path: Path) -> None:
    picture = texture(1, 240, 320, detail=0.004)
    blurred = [np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma))) for sigma in (0, 1, 2, 4, 8)]
    found = [scores(tmp_path / "blur.mp4", np.stack([frame] * 4), 8).scores["sharpness"] for frame in blurred]
    assert all(sharp > 2 * soft for sharp, soft in pairwise(found))


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"), [(30, 30, 0, 0), (0, 0, 48, 48), (30, 0, 0, 64), (0, 0, 0, 0)]
)
def test_bars_are_a_share_of_the_picture(
    tmp_path: Path, top: int, bottom: int, left: int, right: int, level: int
) -> None:
    """Through a file, whose compression blurs the edges."""
    frames = moving(0.2, 12, 240, seconds=0.6)[:, :, :320].copy()
    frames[:, :top] = frames[:, 240 - bottom :] = frames[:, :, :left] = frames[:, :, 320 - right :] = level
    share = 1 - (1 - (top + bottom) / 240) * (1 - (left + right) / 320)
    assert scores(tmp_path / "bars.mp4", frames, 12).scores["bars"] == pytest.approx(share, abs=0.02)


def test_bars_that_come_and_go_are_none(tmp_path: Path) -> None:
    """A dark moment, or a sky, is no bar."""
    frames = moving(0.2, 12, 120, seconds=1).copy()
    frames[:4, :40] = 0
    frames[4:] = np.linspace(0, 200, 120, dtype=np.uint8)[:, None, None]
    assert scores(tmp_path / "sky.mp4", frames, 12).scores["bars"] < 0.09
    assert bars(np.full((20, 30), 7, dtype=np.uint8)) == (1, 1, 1, 1)


def jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=20)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: picture.resize((640, 360)),
        lambda picture: picture.resize((128, 72)),
        jpeg,
        lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
        lambda picture: ImageEnhance.Contrast(picture).enhance(0.6),
    ],
)
def test_hashes_are_near_for_the_same_picture_and_far_for_another(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    pictures = [texture(seed, 144, 256) for seed in range(12)]
    originals = [perceptual_hash(np.asarray(picture.convert("L"))) for picture in pictures]
    changed = [perceptual_hash(np.asarray(change(picture).convert("L"))) for picture in pictures]
    distances = np.array([[(one ^ other).bit_count() for other in changed] for one in originals])
    assert np.diag(distances).max() <= 5
    assert distances[~np.eye(12, dtype=bool)].min() >= 16


def test_hashes_are_the_signs_of_a_cosine_transform() -> None:
    """By its definition, on a picture that is not scaled."""
    luma = np.asarray(texture(3, 32, 32).convert("L"))
    wave = np.cos(np.pi * (2 * np.arange(32)[None] + 1) * np.arange(8)[:, None] / 64)
    wave[0] /= np.sqrt(2)
    lowest = wave @ luma @ wave.T
    bits = "".join("1" if value > np.median(lowest) else "0" for value in lowest.ravel())
    assert f"{perceptual_hash(luma):064b}" == bits
