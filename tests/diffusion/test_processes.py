import math

import pytest
import torch

from video_dit.config import DiffusionConfig
from video_dit.diffusion.processes import Process, build_process

PROCESSES = ["rectified_flow", "cosine", "edm", "ldm_linear"]
T = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)


def process_of(name: str) -> Process:
    return build_process(DiffusionConfig(process=name))


def example(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, batch, 3, 2, 4, 4, dtype=torch.float64).unbind()


@pytest.mark.parametrize("name", PROCESSES)
def test_the_signal_to_noise_ratio_is_that_of_the_paper(name: str) -> None:
    """alpha^2 / sigma^2 of arXiv 2403.03206, section 2, written out for each process."""
    normal = torch.distributions.Normal(0.0, 1.0)
    betas = [(0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2 for i in range(1000)]

    def ldm(t: float) -> float:
        kept = math.prod(1 - beta for beta in betas[: round(1000 * t)])
        return kept / (1 - kept)

    expected = {
        "rectified_flow": lambda t: (1 - t) ** 2 / t**2,
        "cosine": lambda t: math.cos(math.pi * t / 2) ** 2 / math.sin(math.pi * t / 2) ** 2,
        "edm": lambda t: math.exp(-2 * (-1.2 + 1.2 * float(normal.icdf(torch.tensor(t, dtype=torch.float64))))),
        "ldm_linear": ldm,
    }[name]
    alpha, sigma = process_of(name).coefficients(T)
    torch.testing.assert_close(
        (alpha / sigma) ** 2, torch.tensor([expected(t) for t in T.tolist()], dtype=T.dtype), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_the_path_starts_at_the_data_and_ends_in_noise(name: str) -> None:
    latents, noise = example(2)
    process = process_of(name)
    torch.testing.assert_close(process.add_noise(latents, noise, torch.zeros(2, dtype=T.dtype)), latents)
    end = process.add_noise(latents, noise, torch.ones(2, dtype=T.dtype))
    rest = 0.0047**0.5 if name == "ldm_linear" else 0.0  # the discrete schedule keeps a little of the data
    torch.testing.assert_close(end, rest * latents + (1 - rest**2) ** 0.5 * noise, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_velocity_and_path_are_solved_for_latents_and_noise(name: str) -> None:
    latents, noise = example()
    process = process_of(name)
    estimate = process.split(process.add_noise(latents, noise, T), process.velocity(latents, noise, T), T)
    torch.testing.assert_close(estimate.latents, latents)
    torch.testing.assert_close(estimate.noise, noise)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_velocity_is_the_derivative_along_the_path(name: str) -> None:
    """By t on the straight path, else by the angle, with a difference quotient."""
    latents, noise = example(1)
    process, step = process_of(name), 1e-4
    before, after = (process.add_noise(latents, noise, torch.tensor([t], dtype=T.dtype)) for t in (0.4, 0.4 + step))

    def along(t: float) -> float:
        t = torch.tensor(t, dtype=T.dtype)
        return float(t if name == "rectified_flow" else process.ratio(t).atan())

    slope = (after - before) / (along(0.4 + step) - along(0.4))
    velocity = process.velocity(latents, noise, torch.tensor([0.4 + step / 2], dtype=T.dtype))
    torch.testing.assert_close(slope, velocity, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_ratio_and_shift_are_inverted(name: str) -> None:
    process = process_of(name)
    torch.testing.assert_close(process.t_of_ratio(process.ratio(T)), T)
    end = 1 / process.ratio(torch.ones_like(T))  # 0 but for LDM's schedule
    shifted = 1.5 / (1 / process.ratio(T) + 0.5 * end)
    torch.testing.assert_close(process.ratio(process.shift(T, 1.5)), shifted)
    ends = torch.tensor([0.0, 1.0], dtype=T.dtype)
    torch.testing.assert_close(process.shift(ends, 3.0), ends)


@pytest.mark.parametrize("name", PROCESSES)
def test_each_frame_may_have_its_own_time(name: str) -> None:
    latents, noise = example(2)
    t = torch.tensor([[0.1, 0.7], [0.0, 0.4]], dtype=T.dtype)
    process = process_of(name)
    noised = process.add_noise(latents, noise, t)
    for frame in range(2):
        of_frame = process.add_noise(latents[:, :, [frame]], noise[:, :, [frame]], t[:, frame])
        torch.testing.assert_close(noised[:, :, [frame]], of_frame)
