import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.distances import frechet_distance, kernel_distance


def gaussian(count: int, width: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return scale * torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + seed


def fitted(mean: list[float], deviations: list[float]) -> Tensor:
    """Points whose mean is `mean`, and whose covariance is diagonal, with these deviations, exactly."""
    width = len(mean)
    axes = torch.eye(width, dtype=torch.float64) * ((2 * width - 1) / 2) ** 0.5
    return torch.cat([axes, -axes]) * torch.tensor(deviations) + torch.tensor(mean)


def test_frechet_distance_of_diagonal_gaussians_is_that_of_means_and_deviations() -> None:
    a, b = fitted([1, 2, 3], [1, 0.5, 2]), fitted([0, 2, 5], [3, 0.5, 1])
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (2**2 + 0 + 1), abs=1e-12)


@pytest.mark.parametrize("count", [6, 100])
def test_frechet_distance_is_the_formula_with_the_root_of_a_matrix(count: int) -> None:
    """With 6 points in 8 dimensions too, where the root is taken of a singular matrix, in its own way."""
    a, b = gaussian(count, 8, 1), gaussian(count + 1, 8, 2)
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    half = np.asarray(scipy.linalg.sqrtm(cov_a + 1e-13 * np.eye(8))).real
    root = np.sqrt(np.linalg.eigvalsh(half @ cov_b @ half).clip(0)).sum()
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(cov_a + cov_b) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    if count > 8:
        whole = np.trace(np.asarray(scipy.linalg.sqrtm(cov_a @ cov_b)).real)
        assert root == pytest.approx(whole, rel=1e-6)


def test_frechet_distance_of_a_set_from_itself_is_zero_and_both_ways_the_same() -> None:
    a, b = gaussian(30, 50, 0), gaussian(40, 50, 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * float(a.square().sum()))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_bias_of_frechet_distance_halves_with_twice_as_many_and_the_kernel_distance_has_none() -> None:
    """Nor with frames, which are like the others of their clip."""
    generator = torch.Generator().manual_seed(0)

    def means(distance: object, count: int, num_frames: int = 1) -> tuple[float, float]:
        clips = (torch.randn(2, count, 1, 6, generator=generator) for _ in range(200))
        pairs = [pair + 0.1 * torch.randn(2, count, num_frames, 6, generator=generator) for pair in clips]
        values = np.array([distance(*pair) for pair in pairs])  # type: ignore[operator]
        return values.mean(), values.std() / len(values) ** 0.5

    few, many = means(frechet_distance, 50)[0], means(frechet_distance, 100)[0]
    assert few / many == pytest.approx(2, rel=0.15)
    for count, num_frames in ((5, 1), (50, 1), (5, 8)):
        mean, error = means(kernel_distance, count, num_frames)
        assert abs(mean) < 3 * error


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_kernel_distance_is_the_mean_over_pairs_of_two_clips(num_frames: int) -> None:
    a, b = gaussian(8, 3, 0), gaussian(12, 3, 1)

    def mean(x: Tensor, y: Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y))]
        apart = [(i, j) for i, j in pairs if not (same and i // num_frames == j // num_frames)]
        return float(np.mean([(float(x[i] @ y[j]) / 3 + 1) ** 3 for i, j in apart]))

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert kernel_distance(a.view(-1, num_frames, 3), b.view(-1, num_frames, 3)) == pytest.approx(expected)
    if num_frames == 1:
        assert kernel_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_in_blocks_is_that_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = gaussian(20, 3, 0), gaussian(30, 3, 1)
    whole = kernel_distance(a, b)
    monkeypatch.setattr("video_dit.evaluation.distances._KERNEL_ROWS", 7)
    assert kernel_distance(a, b) == pytest.approx(whole)


def test_frames_of_clips_are_more_features_of_a_gaussian() -> None:
    a, b = gaussian(20, 4, 0), gaussian(30, 4, 1)
    assert frechet_distance(a.view(5, 4, 4), b.view(10, 3, 4)) == pytest.approx(frechet_distance(a, b))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("b", "said"),
    [
        (torch.ones(4, 3), "width"),
        (torch.ones(1, 2), "2 at least"),
        (torch.ones(1, 5, 2), "2 at least"),
        (torch.full((4, 2), torch.nan), "not all finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(distance: object, b: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        distance(torch.ones(4, 2), b)  # type: ignore[operator]
