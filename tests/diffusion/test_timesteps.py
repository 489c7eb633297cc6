import math

import pytest
import torch

from video_dit.diffusion.timesteps import sample_t, shift_t

NUM_DRAWS = 100_000


def kolmogorov_smirnov(draws: torch.Tensor, cumulative: torch.Tensor) -> float:
    """The largest distance between the empirical distribution and the cumulative one at the sorted draws."""
    empirical = torch.arange(1, len(draws) + 1, dtype=torch.float64) / len(draws)
    return float((empirical - cumulative).abs().max())


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.8, 0.6, 1.0), (0.0, 1.0, 4.0)])
def test_logit_normal_follows_its_closed_form(mean: float, std: float, shift: float) -> None:
    """A shift multiplies t / (1 - t), so it adds its logarithm to the mean of the logit."""
    t = (
        sample_t((NUM_DRAWS,), "logit_normal", mean, std, shift, torch.Generator().manual_seed(0))
        .double()
        .sort()
        .values
    )
    z = (torch.logit(t) - mean - math.log(shift)) / std
    cumulative = (1 + torch.erf(z / 2**0.5)) / 2
    assert kolmogorov_smirnov(t, cumulative) < 1.63 / NUM_DRAWS**0.5  # 1% level


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uniform_follows_its_closed_form(shift: float) -> None:
    t = sample_t((NUM_DRAWS,), "uniform", 0.0, 1.0, shift, torch.Generator().manual_seed(0)).double().sort().values
    cumulative = t / (shift - (shift - 1) * t)  # the inverse of the shift
    assert kolmogorov_smirnov(t, cumulative) < 1.63 / NUM_DRAWS**0.5


def test_shift_keeps_the_ends_and_multiplies_the_odds_of_noise() -> None:
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    shifted = shift_t(t, 3.0)
    assert shifted[[0, 3]].tolist() == [0, 1]
    torch.testing.assert_close((shifted / (1 - shifted))[1:3], 3 * (t / (1 - t))[1:3])
