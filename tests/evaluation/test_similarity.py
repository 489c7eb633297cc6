import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.similarity import psnr, ssim


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two smooth clips, and the same with more noise for the second."""
    waves = 127 + 100 * np.sin(np.arange(2 * 3 * 20 * 24 * 3).reshape(2, 3, 20, 24, 3) / 40)
    noise = rng.normal(size=waves.shape) * np.array([5, 40]).reshape(2, 1, 1, 1, 1)
    clips, references = ((waves + part).clip(0, 255).astype(np.uint8) for part in (noise, 0))
    return torch.from_numpy(clips), torch.from_numpy(references)


def test_psnr_and_ssim_are_those_of_scikit_image(pair: tuple[Tensor, Tensor]) -> None:
    def over_frames(measure: object, x: Tensor, y: Tensor) -> float:
        return float(np.mean([measure(b.numpy(), a.numpy()) for a, b in zip(x, y, strict=True)]))  # type: ignore[operator]

    def wang(a: np.ndarray, b: np.ndarray) -> float:
        return structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1
        )

    expected_psnr = [over_frames(peak_signal_noise_ratio, x, y) for x, y in zip(*pair, strict=True)]
    expected_ssim = [over_frames(wang, x, y) for x, y in zip(*pair, strict=True)]
    assert psnr(*pair).tolist() == pytest.approx(expected_psnr, abs=1e-9)
    assert ssim(*pair).tolist() == pytest.approx(expected_ssim, abs=1e-9)
    assert expected_ssim[1] < 0.9 < expected_ssim[0] < 1


def test_equal_clips(pair: tuple[Tensor, Tensor]) -> None:
    clips, _ = pair
    assert psnr(clips, clips).tolist() == [math.inf, math.inf]
    assert ssim(clips, clips).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_psnr_of_one_level_everywhere() -> None:
    grey = torch.full((1, 2, 4, 4, 3), 100, dtype=torch.uint8)
    assert psnr(grey, grey + 1).item() == pytest.approx(48.1308, abs=1e-4)


def test_clips_without_a_like_reference_are_refused(pair: tuple[Tensor, Tensor]) -> None:
    clips, references = pair
    with pytest.raises(UserError, match="same size and length"):
        psnr(clips, references[:, :2])
    with pytest.raises(UserError, match="10 x 24 pixels, and this measure needs 11"):
        ssim(clips[:, :, :10], references[:, :, :10])
