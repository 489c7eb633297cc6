"""Forward processes: the paths from data to noise, and the schedules that say how far along them t is.

There are two paths. On the straight one alpha + sigma = 1 (rectified flow); on the circular one alpha^2 + sigma^2 = 1
(variance preserving). What matters of a process is its ratio of noise to signal, sigma / alpha; its square is one over
the signal-to-noise ratio. EDM adds noise without shrinking the data; divided by sqrt(1 + sigma^2), as its network sees
it, that is the circular path (Karras et al. 2022, arXiv 2206.00364, table 1, with data of unit scale).
"""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from video_dit.config import DiffusionConfig

Coefficients = tuple[Tensor, Tensor]


def expand_t(t: Tensor, like: Tensor) -> Tensor:
    """[B], or [B, F] with a time per frame, or a number, to what multiplies [B, C, F, H, W]."""
    if t.ndim == 2:
        return t[:, None, :, None, None]
    return t.reshape(-1, *(1,) * (like.ndim - 1)) if t.ndim else t


class Estimate(NamedTuple):
    """What a noised clip is thought to be made of, [B, C, F, H, W] each."""

    latents: Tensor
    noise: Tensor


class Process(ABC):
    """x_t = alpha(t) latents + sigma(t) noise.

    Every t is a tensor: a number, [B], or [B, F] with a time per frame.
    """

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """alpha and sigma at t in [0, 1]."""

    @abstractmethod
    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        """How the velocity is made of the latents and of the noise."""

    @abstractmethod
    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        """The t at which sigma / alpha is `ratio`, which may be infinite."""

    def ratio(self, t: Tensor) -> Tensor:
        """sigma / alpha, from 0 to infinity."""
        alpha, sigma = self.coefficients(t)
        return sigma / alpha

    def shift(self, t: Tensor, factor: float) -> Tensor:
        """Moves t towards noise: sigma / alpha becomes `factor` times as large; 1 leaves it.

        The more pixels show the same thing, the more noise it takes to hide it (arXiv 2403.03206, equation 23). Where
        the process ends before alpha does, it is less near the end, which stays where it is.
        """
        if factor == 1:
            return t
        end = 1 / self.ratio(torch.ones_like(t))
        return self.t_of_ratio(factor / (1 / self.ratio(t) + (factor - 1) * end))

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t, [B, C, F, H, W]."""
        return _combine(self.coefficients(t), latents, noise)

    def velocity(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The derivative of x_t along the path: by t on the straight one, by the angle on the circular one.

        noise - latents, and alpha noise - sigma latents (the "v" of Salimans and Ho 2022, arXiv 2202.00512).
        """
        return _combine(self.velocity_coefficients(t), latents, noise)

    def split(self, x_t: Tensor, velocity: Tensor, t: Tensor) -> Estimate:
        """The latents and the noise that x_t and its velocity are made of: the two equations above, solved."""
        alpha, sigma = (expand_t(c, x_t) for c in self.coefficients(t))
        of_latents, of_noise = (expand_t(c, x_t) for c in self.velocity_coefficients(t))
        return Estimate(of_noise * x_t - sigma * velocity, alpha * velocity - of_latents * x_t)


class RectifiedFlow(Process):
    """The straight path: alpha = 1 - t, sigma = t (arXiv 2403.03206, equation 13)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        return 1 - t, t

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        return -torch.ones_like(t), torch.ones_like(t)

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        return 1 - 1 / (1 + ratio)


class Circular(Process):
    """alpha = cos(angle), sigma = sin(angle); a subclass says how the angle depends on t."""

    @abstractmethod
    def angle(self, t: Tensor) -> Tensor:
        """From 0 at the data to at most pi / 2 at noise."""

    def coefficients(self, t: Tensor) -> Coefficients:
        angle = self.angle(t)
        return angle.cos(), angle.sin()

    def velocity_coefficients(self, t: Tensor) -> Coefficients:
        angle = self.angle(t)
        return -angle.sin(), angle.cos()

    def ratio(self, t: Tensor) -> Tensor:
        return self.angle(t).tan()


class Cosine(Circular):
    """The angle grows evenly (Nichol and Dhariwal 2021, without their offset; arXiv 2403.03206, section 2)."""

    def angle(self, t: Tensor) -> Tensor:
        return t * (math.pi / 2)

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.atan() * (2 / math.pi)


class EDM(Circular):
    """log(sigma / alpha) is normally distributed when t is uniform (arXiv 2403.03206, section 2, "EDM")."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean = mean
        self.std = std

    def ratio(self, t: Tensor) -> Tensor:
        log_ratio: Tensor = self.mean + self.std * torch.special.ndtri(t)
        return log_ratio.exp()

    def angle(self, t: Tensor) -> Tensor:
        return self.ratio(t).atan()

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        t: Tensor = torch.special.ndtr((ratio.log() - self.mean) / self.std)
        return t


class LDMLinear(Circular):
    """The discrete schedule of latent diffusion: sqrt(beta) grows evenly over 1,000 steps (Rombach et al. 2022).

    Step i of them (from 1 on) stands at t = i / 1000; in between the angle is interpolated. At t = 1 a little of the
    data is left: sigma / alpha is 14.6.
    """

    NUM_STEPS = 1000
    BETAS = (0.00085, 0.012)

    def angle(self, t: Tensor) -> Tensor:
        angles = _ldm_angles(self.NUM_STEPS, self.BETAS).to(t.device)
        place = t.double() * self.NUM_STEPS
        below = place.long().clamp(0, self.NUM_STEPS - 1)
        return torch.lerp(angles[below], angles[below + 1], place - below).type_as(t)

    def t_of_ratio(self, ratio: Tensor) -> Tensor:
        angles = _ldm_angles(self.NUM_STEPS, self.BETAS).to(ratio.device)
        angle = ratio.double().atan().clamp(max=float(angles[-1]))
        above = torch.searchsorted(angles, angle).clamp(1, self.NUM_STEPS)
        share = (angle - angles[above - 1]) / (angles[above] - angles[above - 1])
        return ((above - 1 + share) / self.NUM_STEPS).type_as(ratio)


@cache
@torch.inference_mode(False)  # what is remembered may serve training, too
def _ldm_angles(num_steps: int, betas: tuple[float, float]) -> Tensor:
    """[num_steps + 1] float64, from t = 0 on; the same for every process, of which training makes many."""
    first, last = (beta**0.5 for beta in betas)
    squares = torch.linspace(first, last, num_steps, dtype=torch.float64).square()
    alphas = torch.cat((torch.ones(1, dtype=torch.float64), (1 - squares).cumprod(0))).sqrt()
    return alphas.acos()


def build_process(config: DiffusionConfig) -> Process:
    """The forward process of a run."""
    if config.process == "edm":
        return EDM(config.edm_mean, config.edm_std)
    if config.process == "ldm_linear":
        return LDMLinear()
    return Cosine() if config.process == "cosine" else RectifiedFlow()


def _combine(coefficients: Coefficients, latents: Tensor, noise: Tensor) -> Tensor:
    of_latents, of_noise = (expand_t(c, latents) for c in coefficients)
    return of_latents * latents + of_noise * noise
