import math

import pytest
import torch

from video_dit.config import DiffusionConfig
from video_dit.diffusion.processes import build_process
from video_dit.diffusion.timesteps import quantile, sample_t, sampling_times, shift_for

NUM_DRAWS = 100_000


def draws(**keys: object) -> torch.Tensor:
    config = DiffusionConfig(**{"shift": 1.0, **keys})
    u = torch.rand(NUM_DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sample_t(u, build_process(config), config, config.shift).double().sort().values


def assert_follows(t: torch.Tensor, cumulative: torch.Tensor) -> None:
    """Kolmogorov and Smirnov: the largest distance from the empirical distribution, at the 1% level."""
    empirical = torch.arange(1, len(t) + 1, dtype=torch.float64) / len(t)
    assert float((empirical - cumulative).abs().max()) < 1.63 / NUM_DRAWS**0.5


def normal_cdf(z: torch.Tensor) -> torch.Tensor:
    return (1 + torch.erf(z / 2**0.5)) / 2


def integrated(density: object, t: torch.Tensor) -> torch.Tensor:
    """The cumulative distribution of a density on [0, 1], by the trapezoidal rule, at each t."""
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(density(grid), grid)  # type: ignore[operator]
    cumulative = torch.cat((torch.zeros(1), cumulative))
    return cumulative[(t * 200_000).round().long()]


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.8, 0.6, 1.0), (0.0, 1.0, 4.0)])
def test_logit_normal_follows_its_closed_form(mean: float, std: float, shift: float) -> None:
    """A shift multiplies t / (1 - t), so it adds its logarithm to the mean of the logit."""
    t = draws(timestep_sampler="logit_normal", logit_mean=mean, logit_std=std, shift=shift)
    assert_follows(t, normal_cdf((torch.logit(t) - mean - math.log(shift)) / std))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uniform_follows_its_closed_form(shift: float) -> None:
    t = draws(timestep_sampler="uniform", shift=shift)
    assert_follows(t, t / (shift - (shift - 1) * t))  # the inverse of the shift


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.81, 1.75])
def test_mode_is_distributed_as_its_map(scale: float) -> None:
    """arXiv 2403.03206, equation 20: t = 1 - u - s (cos^2(pi u / 2) - 1 + u) falls with u, so P(t' < t) = 1 - u."""
    t = draws(timestep_sampler="mode", mode_scale=scale)
    u = torch.linspace(1, 0, 100_001, dtype=torch.float64)
    mapped = 1 - u - scale * ((torch.pi / 2 * u).cos().square() - 1 + u)
    assert bool((mapped.diff() >= -1e-12).all())
    places = torch.searchsorted(mapped, t).clamp(max=len(u) - 1)
    assert_follows(t, 1 - u[places])


def test_cosmap_follows_its_density() -> None:
    """Equation 21's density: 2 / (pi - 2 pi t + 2 pi t^2)."""
    t = draws(timestep_sampler="cosmap")
    assert_follows(t, integrated(lambda x: 2 / (math.pi - 2 * math.pi * x + 2 * math.pi * x * x), t))


@pytest.mark.parametrize("process", ["rectified_flow", "cosine", "edm", "ldm_linear"])
def test_edm_is_log_normal_in_the_ratio_of_noise_to_signal(process: str) -> None:
    t = draws(process=process, timestep_sampler="edm", edm_mean=-0.4, edm_std=1.0)
    ratio = build_process(DiffusionConfig(process=process, edm_mean=-0.4, edm_std=1.0)).ratio(t)
    kept = ratio < (14.0 if process == "ldm_linear" else math.inf)  # its schedule ends at 14.6
    assert_follows(t, torch.where(kept, normal_cdf(ratio.log() + 0.4), torch.arange(1, len(t) + 1) / len(t)))


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.0), (2.0, 5.0), (0.5, 0.5)])
def test_beta_follows_its_density(a: float, b: float) -> None:
    t = draws(timestep_sampler="beta", beta=(a, b))
    if (a, b) == (0.5, 0.5):
        cumulative = 2 / math.pi * t.sqrt().asin()  # the arcsine law
    else:
        constant = math.gamma(a + b) / (math.gamma(a) * math.gamma(b))
        cumulative = integrated(lambda x: constant * x ** (a - 1) * (1 - x) ** (b - 1), t)
    assert_follows(t, cumulative)


@pytest.mark.parametrize("sampler", ["uniform", "logit_normal", "mode", "cosmap", "edm", "beta"])
def test_quantiles_rise_from_data_to_noise(sampler: str) -> None:
    config = DiffusionConfig(timestep_sampler=sampler)
    t = quantile(torch.linspace(0, 1, 101, dtype=torch.float64), build_process(config), config)
    assert bool((t.diff() > 0).all())
    torch.testing.assert_close(t[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_the_shift_grows_with_the_root_of_the_number_of_tokens() -> None:
    """arXiv 2403.03206, equation 23: sqrt(m / n)."""
    assert shift_for(4096, DiffusionConfig(shift=3.0)) == 3.0
    assert shift_for(4096, DiffusionConfig(shift=3.0, shift_tokens=1024)) == 6.0
    assert shift_for(256, DiffusionConfig(shift=3.0, shift_tokens=1024)) == 1.5


@pytest.mark.parametrize("process", ["rectified_flow", "cosine", "edm", "ldm_linear"])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
def test_sampling_goes_from_noise_to_data(process: str, spacing: str) -> None:
    times = sampling_times(build_process(DiffusionConfig(process=process)), 10, 2.0, spacing)
    assert len(times) == 11
    assert times[[0, -1]].tolist() == [1, 0]
    assert bool((times.diff() <= 0).all())


@pytest.mark.parametrize("process", ["rectified_flow", "cosine", "edm", "ldm_linear"])
@pytest.mark.parametrize("spacing", ["uniform", "karras"])
@pytest.mark.parametrize("shift", [0.5, 2.0, 4.0])
def test_no_time_comes_twice(process: str, spacing: str, shift: float) -> None:
    """Nor does a shift draw one end for more than a share of the samples: LDM's schedule ends while data is left."""
    config = DiffusionConfig(process=process, timestep_sampler="uniform")
    assert bool((sampling_times(build_process(config), 20, shift, spacing).diff() < 0).all())
    t = sample_t(torch.linspace(0, 0.999, 1000), build_process(config), config, shift)
    assert len(t.unique()) == 1000


def test_with_zero_init_the_first_times_are_left_out() -> None:
    times = sampling_times(build_process(DiffusionConfig()), 20, 1.0, "uniform", zero_init=0.1)
    torch.testing.assert_close(times, torch.linspace(0.9, 0, 19, dtype=torch.float64))


def test_karras_spacing_is_the_published_table() -> None:
    """Karras et al. 2022, equation 5, with rho = 7 and sigma from 80 to 0.002."""
    process = build_process(DiffusionConfig(process="edm"))
    ratios = process.ratio(sampling_times(process, 5, 1.0, "karras"))
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    torch.testing.assert_close(ratios[1:], torch.tensor([*expected[1:], 0.0], dtype=torch.float64))
