"""Densities over t from which training draws (arXiv 2403.03206, section 3.1)."""

import math

import torch
from scipy.special import betaincinv
from torch import Tensor

from video_dit.config import DiffusionConfig
from video_dit.diffusion.processes import Process


def quantile(u: Tensor, process: Process, config: DiffusionConfig) -> Tensor:
    """The t below which a share u of the draws lies, before any shift: uniform numbers become draws of the density.

    - uniform: t is as likely everywhere.
    - logit_normal: logit(t) is normal with `logit_mean` and `logit_std` (equation 19).
    - mode: `mode_scale` above 0 prefers the middle, below 0 the ends (equation 20).
    - cosmap: under rectified flow, the signal-to-noise ratio is distributed as under the cosine schedule (equation 21).
    - edm: log(sigma / alpha) is normal with `edm_mean` and `edm_std` (Karras et al. 2022, table 1).
    - beta: t follows Beta(a, b) with (a, b) = `beta`.

    Args:
        u: [...] float64 in [0, 1].
        process: the forward process.
        config: its timestep sampler and the keys that it reads.

    Returns:
        [...] float64 in [0, 1].
    """
    sampler = config.timestep_sampler
    if sampler == "logit_normal":
        return torch.sigmoid(config.logit_mean + config.logit_std * torch.special.ndtri(u))
    if sampler == "mode":
        return u - config.mode_scale * ((math.pi / 2 * (1 - u)).cos().square() - u)
    if sampler == "cosmap":
        return 1 - 1 / ((math.pi / 2 * u).tan() + 1)
    if sampler == "edm":
        return process.t_of_ratio(torch.exp(config.edm_mean + config.edm_std * torch.special.ndtri(u)))
    if sampler == "beta":
        return torch.from_numpy(betaincinv(*config.beta, u.numpy()))
    return u


def shift_for(num_tokens: int, config: DiffusionConfig) -> float:
    """How far t is moved towards noise for clips of this many video tokens (arXiv 2403.03206, section 5.3.2).

    `shift`, times the root of the number of tokens over `shift_tokens` where the config names one.
    """
    return config.shift * (num_tokens / config.shift_tokens) ** 0.5 if config.shift_tokens else config.shift


def sample_t(u: Tensor, process: Process, config: DiffusionConfig, shift: float) -> Tensor:
    """Timesteps in [0, 1], float32, from uniform numbers: draws of the config's density, then shifted."""
    return process.shift(quantile(u.double(), process, config), shift).float()


def sampling_times(process: Process, num_steps: int, shift: float, spacing: str, zero_init: float = 0.0) -> Tensor:
    """The times at which a solver stops, from 1 to 0: [num_steps + 1] float64, or fewer with `zero_init`.

    Args:
        process: the forward process.
        num_steps: at least 1.
        shift: moves them towards noise; see `Process.shift`.
        spacing: "uniform" in t, or "karras": sigma / alpha from 80 to 0.002, spaced evenly in its seventh root, before
            the last step to 0 (Karras et al. 2022, equation 5).
        zero_init: times above 1 - zero_init are left out, as if nothing moved until then (CFG-Zero*: Fan et al. 2025,
            arXiv 2503.18886, section 4.2).
    """
    if spacing == "uniform" or num_steps == 1:
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    else:
        largest = min(80.0, float(process.ratio(torch.ones(1, dtype=torch.float64))))
        roots = torch.linspace(largest ** (1 / 7), 0.002 ** (1 / 7), num_steps, dtype=torch.float64)
        times = torch.cat((process.t_of_ratio(roots**7), torch.zeros(1, dtype=torch.float64)))
        times[0] = 1
    times = process.shift(times, shift)
    return times[times <= 1 - zero_init]
