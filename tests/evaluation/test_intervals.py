import numpy as np
import pytest
import scipy.stats
import torch

from video_dit.errors import UserError
from video_dit.evaluation.distances import frechet_distance
from video_dit.evaluation.intervals import bootstrap_interval, half_sample_interval


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_is_that_of_scipy(rng: np.random.Generator, statistic: object) -> None:
    scores = rng.exponential(size=80)
    ours = bootstrap_interval(scores, statistic, confidence=0.9, num_resamples=5000)  # type: ignore[arg-type]
    theirs = scipy.stats.bootstrap(
        (scores,), statistic, confidence_level=0.9, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == statistic(scores)  # type: ignore[operator]
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    draws = [np.random.default_rng(seed).normal(size=50) for seed in range(300)]
    intervals = [bootstrap_interval(scores, confidence=0.8, num_resamples=300) for scores in draws]
    covered = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert 0.72 < covered < 0.86


def test_a_seed_gives_one_interval(rng: np.random.Generator) -> None:
    scores = rng.normal(size=20)
    assert (
        bootstrap_interval(scores, seed=1) == bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)
    )


def test_half_samples_give_the_normal_interval_of_a_difference_of_means() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, 1, generator=generator), 2 * torch.randn(300, 1, generator=generator)
    value, low, high = half_sample_interval(lambda x, y: float(x.mean() - y.mean()), a, b, num_resamples=4000)
    error = float(a.var() / 200 + b.var() / 300) ** 0.5
    assert value == pytest.approx(float(a.mean() - b.mean()))
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.15 * error)


def test_half_samples_give_the_spread_of_frechet_distances_of_sets_drawn_anew() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(100, 3, generator=generator), 1 + 1.5 * torch.randn(100, 3, generator=generator)

    anew = np.quantile([frechet_distance(*draw()) for _ in range(300)], (0.1, 0.9))
    intervals = [half_sample_interval(frechet_distance, *draw(), confidence=0.8, num_resamples=100) for _ in range(10)]
    width = np.mean([high - low for _, low, high in intervals])
    assert width == pytest.approx(anew[1] - anew[0], rel=0.2)
    assert all(low < value < high for value, low, high in intervals)


def test_half_samples_are_around_the_distance_where_their_own_are_larger() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40, 20, generator=generator)
    value, low, high = half_sample_interval(frechet_distance, a, b)
    assert low < value < high < frechet_distance(a[:20], b[:20])


def test_too_few_clips_and_infinite_scores_are_refused() -> None:
    with pytest.raises(UserError, match="needs 2"):
        bootstrap_interval(np.ones(1))
    with pytest.raises(UserError, match="not all finite"):
        bootstrap_interval(np.array([1, np.inf]))
    with pytest.raises(UserError, match="needs 4"):
        half_sample_interval(frechet_distance, torch.ones(3, 2), torch.ones(9, 2))
