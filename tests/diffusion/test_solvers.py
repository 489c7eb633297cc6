import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from video_dit.config import DiffusionConfig
from video_dit.diffusion.processes import Process, build_process
from video_dit.diffusion.solvers import solve
from video_dit.diffusion.timesteps import sampling_times

PROCESSES = ["rectified_flow", "cosine", "edm", "ldm_linear"]
DETERMINISTIC = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}
MEAN, STD = 0.7, 0.4


def process_of(name: str) -> Process:
    return build_process(DiffusionConfig(process=name))


def gaussian_velocity(process: Process) -> Callable[[Tensor, Tensor], Tensor]:
    """Of data that is normal with MEAN and STD: the expected latents and noise at x_t, in closed form."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.view(-1, *(1,) * (x.ndim - 1)) for c in process.coefficients(t))
        variance = alpha**2 * STD**2 + sigma**2
        latents = MEAN + alpha * STD**2 / variance * (x - alpha * MEAN)
        return process.velocity(latents, sigma / variance * (x - alpha * MEAN), t)

    return velocity


def gaussian_flow(process: Process, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The exact solution: quantiles stay what they are."""
    (alpha, sigma), (alpha_next, sigma_next) = process.coefficients(t), process.coefficients(t_next)
    std, std_next = ((a**2 * STD**2 + s**2).sqrt() for a, s in ((alpha, sigma), (alpha_next, sigma_next)))
    return alpha_next * MEAN + std_next / std * (x - alpha * MEAN)


@pytest.mark.parametrize("solver", [*DETERMINISTIC, "stochastic_euler"])
@pytest.mark.parametrize("name", PROCESSES)
def test_exact_when_latents_and_noise_stay_what_they_are(solver: str, name: str) -> None:
    """On the straight path that is a linear flow. The stochastic solver forgets the noise and keeps the latents."""
    process = process_of(name)
    latents, noise = torch.randn(2, 2, 3, 2, 4, 4, dtype=torch.float64).unbind()
    times = sampling_times(process, 4, 2.0, "uniform")

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c[:, None, None, None, None] for c in process.coefficients(t))
        return process.velocity(latents, (x - alpha * latents) / sigma, t)

    start = process.add_noise(latents, noise, times[0])
    torch.testing.assert_close(solve(velocity, start, times, process, solver), latents)


@pytest.mark.parametrize(("solver", "order"), DETERMINISTIC.items())
@pytest.mark.parametrize("name", PROCESSES)
def test_order_of_convergence(solver: str, order: int, name: str) -> None:
    """Between two times inside the path, whose steps are even in log(alpha / sigma)."""
    process = process_of(name)
    start = torch.tensor([[1.3]], dtype=torch.float64)

    def error(num_steps: int) -> float:
        times = process.t_of_ratio(torch.linspace(1.5, -1.5, num_steps + 1, dtype=torch.float64).exp())
        solved = solve(gaussian_velocity(process), start, times, process, solver)
        return float((solved - gaussian_flow(process, start, times[0], times[-1])).abs())

    measured = math.log2(error(160) / error(320))
    assert measured == pytest.approx(order, abs=0.25)


def test_the_stochastic_solver_keeps_the_distribution() -> None:
    process = process_of("rectified_flow")
    noise = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(1)
    x = solve(
        gaussian_velocity(process), noise, sampling_times(process, 500, 1.0, "uniform"), process, "stochastic_euler"
    )
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(x.std()) == pytest.approx(STD, abs=0.01)
    assert (
        abs(float(torch.corrcoef(torch.stack((x, noise)).squeeze(-1))[0, 1])) < 0.03
    )  # what it began with is forgotten


@pytest.mark.parametrize(
    ("solver", "calls"), {"euler": 4, "heun": 7, "dpmpp_2m": 4, "unipc": 4, "stochastic_euler": 4}.items()
)
def test_the_network_is_asked_as_often_as_is_claimed(solver: str, calls: int) -> None:
    asked, steps = [], []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t[0]))
        return torch.zeros_like(x)

    process = process_of("rectified_flow")
    solve(
        velocity, torch.zeros(1, 1), sampling_times(process, 4, 1.0, "uniform"), process, solver, on_step=steps.append
    )
    assert len(asked) == calls
    assert asked[0] == 1
    assert min(asked) > 0  # never at the data itself, where a data prediction has no velocity
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("solver", "scheduler"),
    [
        ("dpmpp_2m", DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")),
        ("unipc", UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")),
    ],
)
def test_multistep_solvers_equal_those_of_diffusers(solver: str, scheduler: object) -> None:
    """On rectified flow, whose times diffusers chooses and this follows; from a little below t = 1, where it starts."""
    process = process_of("rectified_flow")
    velocity = gaussian_velocity(process)
    scheduler.set_timesteps(8)
    times = scheduler.sigmas.double()
    noise = torch.randn(5, 1, dtype=torch.float64)
    x = noise
    for t, scheduler_t in zip(times, scheduler.timesteps, strict=False):
        x = scheduler.step(velocity(x, t.expand(5)), scheduler_t, x, return_dict=False)[0]
    torch.testing.assert_close(solve(velocity, noise, times, process, solver), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", [*DETERMINISTIC, "stochastic_euler"])
def test_the_network_always_sees_what_is_given(solver: str) -> None:
    process = process_of("rectified_flow")
    times = sampling_times(process, 3, 1.0, "uniform")
    given = torch.tensor([[5.0, 0.0]])
    seen = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x[0, 0].item())
        return torch.ones_like(x)

    def keep(x: Tensor) -> Tensor:
        return torch.where(given > 0, given, x)

    x = solve(velocity, torch.zeros(1, 2), times, process, solver, keep=keep)
    assert set(seen) == {5.0}
    assert x[0, 0] == 5.0
    if solver != "stochastic_euler":
        assert float(x[0, 1]) == pytest.approx(-1.0)
