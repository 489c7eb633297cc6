"""Every objective and every solver together: a small network learns a known mixture in the plane, and is sampled."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from random_inputs import random_text
from torch import Tensor, nn

from video_dit.config import DiffusionConfig
from video_dit.diffusion.guidance import Guidance, guided_velocity
from video_dit.diffusion.objective import diffusion_loss
from video_dit.diffusion.processes import build_process
from video_dit.diffusion.solvers import solve
from video_dit.diffusion.timesteps import sample_t, sampling_times

CENTRES = torch.tensor([[1.2, 0.9], [-1.2, 0.9], [0.0, -1.3]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
STD = 0.35
NUM_SAMPLES = 2000
BOUND = 0.04
"""Between the energy distances of what is right, and of what is broken; two sets of true samples are at about 0.001."""

SOLVERS = {"euler": 40, "heun": 20, "dpmpp_2m": 20, "unipc": 20, "stochastic_euler": 60}


def true_samples(count: int, seed: int) -> Tensor:
    """[count, 2]."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return CENTRES[which] + STD * torch.randn(count, 2, generator=generator)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|A - B| - E|A - A'| - E|B - B'| (Szekely and Rizzo 2013), which is 0 for equal distributions alone."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def as_clips(points: Tensor) -> Tensor:
    return points[:, :, None, None, None]


class Network(nn.Module):
    """x_t and t to a prediction, over points dressed up as clips of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor, text: Any = None) -> Tensor:
        angles = t[:, None] * torch.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        return as_clips(self.layers(torch.cat((x.flatten(1), angles.sin(), angles.cos()), dim=1)))


@cache
def trained(**keys: str) -> tuple[Network, DiffusionConfig]:
    config = DiffusionConfig(**{"shift": 1.0, "min_t": 0.02, **keys})
    process = build_process(config)
    torch.manual_seed(0)
    network = Network()
    steps, batch_size = 500 if config.prediction == "velocity" else 1500, 256  # which is learned sooner
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    data = as_clips(true_samples(steps * batch_size, seed=1)).split(batch_size)
    for latents in data:
        noise = torch.randn_like(latents)
        t = sample_t(torch.rand(batch_size), process, config, config.shift)
        output = network(process.add_noise(latents, noise, t), t)
        loss = diffusion_loss(process, output, latents, noise, t, config).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.requires_grad_(False), config


def distance(
    network: Callable[..., Tensor], config: DiffusionConfig, solver: str = "euler", num_steps: int = 40
) -> float:
    """Between what is sampled and the truth. EDM is sampled with its own spacing, unless data is predicted.

    That spacing ends where there is less noise than a prediction of the data errs by.
    """
    spacing = "karras" if config.process == "edm" and config.prediction != "data" else "uniform"
    process, text = build_process(config), random_text(NUM_SAMPLES, 1, 1)
    velocity = guided_velocity(network, text, text, Guidance(), process, config.prediction, config.min_t)
    torch.manual_seed(2)
    noise = as_clips(torch.randn(NUM_SAMPLES, 2))
    sampled = solve(velocity, noise, sampling_times(process, num_steps, 1.0, spacing), process, solver)
    return energy_distance(sampled.flatten(1), true_samples(NUM_SAMPLES, seed=3))


EDM = {"edm_mean": 0.0, "edm_std": 1.4}  # the noise that data of unit scale needs
OBJECTIVES = [
    {"process": process, "prediction": prediction, "loss": prediction} | (EDM if process == "edm" else {})
    for process in ("rectified_flow", "cosine", "edm", "ldm_linear")
    for prediction in ("velocity", "data", "noise")
]
OBJECTIVES += [
    {"process": "rectified_flow", "prediction": "data", "loss": "velocity"},
    {"process": "cosine", "prediction": "velocity", "loss": "noise", "weighting": "min_snr"},
]


@pytest.mark.slow
@pytest.mark.parametrize("keys", OBJECTIVES, ids=lambda keys: " ".join(map(str, keys.values())))
def test_every_objective_is_learned_and_every_solver_finds_the_distribution(keys: dict[str, Any]) -> None:
    network, config = trained(**keys)
    distances = {solver: distance(network, config, solver, num_steps) for solver, num_steps in SOLVERS.items()}
    assert max(distances.values()) < BOUND, distances


@pytest.mark.slow
@pytest.mark.parametrize("keys", [OBJECTIVES[0], OBJECTIVES[4], OBJECTIVES[12]], ids=lambda keys: keys["process"])
def test_what_is_broken_does_not_pass(keys: dict[str, Any]) -> None:
    """A sign, the direction of time, and a shift that the network is told of twice."""
    network, config = trained(**keys)
    process = build_process(config)
    broken = {
        "sign": lambda x, t, text: -network(x, t),
        "time": lambda x, t, text: network(x, 1 - t),
        "shift": lambda x, t, text: network(x, process.shift(t, 6.0)),
    }
    for mistake in broken.values():
        assert distance(mistake, config) > 2 * BOUND
