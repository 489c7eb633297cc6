"""From noise to data along a velocity field.

Each solver moves x from one time to the next with estimates of the clean latents and of the noise. While these stay as
they are, x = alpha latents + sigma noise is known at every time: that is Euler's step (DDIM's, on the circular path).
The others correct for their change.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from video_dit.config import Solver
from video_dit.diffusion import VelocityField
from video_dit.diffusion.processes import Estimate, Process

Noise = Callable[[Tensor], Tensor]
"""Fresh white noise, of the shape that it is given."""


def solve(
    velocity: VelocityField,
    noise: Tensor,
    times: Tensor,
    process: Process,
    solver: Solver,
    *,
    draw_noise: Noise = torch.randn_like,
    keep: Callable[[Tensor], Tensor] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Integrates the velocity over `times`.

    | solver | order | evaluations in N steps | |
    |---|---|---|---|
    | euler | 1 | N | Song et al. 2020 (DDIM), arXiv 2010.02502 |
    | heun | 2 | 2 N - 1 | Karras et al. 2022, arXiv 2206.00364, algorithm 1 |
    | dpmpp_2m | 2 | N | DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095, algorithm 2 |
    | unipc | 2, corrected to 3 | N | UniPC-2 with B(h) = e^h - 1: Zhao et al. 2023, arXiv 2302.04867 |
    | stochastic_euler | 1, in distribution | N | DDIM with eta = 1 |

    Args:
        velocity: the field.
        noise: [B, C, F, H, W], x at the first time.
        times: [N + 1] float64, falling from 1 to 0; see `sampling_times`.
        process: the forward process.
        solver: as above.
        draw_noise: what stochastic_euler adds.
        keep: applied to x before the network sees it and at the end, to hold what is given.
        on_step: called with the number of steps done, after each.

    Returns:
        x at the last time, the shape of `noise`.
    """
    step = _SOLVERS[solver](velocity, process, draw_noise, keep or (lambda x: x))
    x = step.keep(noise)
    for number, (t, t_next) in enumerate(pairwise(times), start=1):
        x = step.keep(step(x, t, t_next))
        if on_step is not None:
            on_step(number)
    return x


class _Solver:
    """One trajectory: steps are asked for in order, and may remember what was before."""

    def __init__(
        self, velocity: VelocityField, process: Process, draw_noise: Noise, keep: Callable[[Tensor], Tensor]
    ) -> None:
        self.velocity = velocity
        self.process = process
        self.draw_noise = draw_noise
        self.keep = keep

    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        raise NotImplementedError

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """Asks the network."""
        return self.process.split(x, self.velocity(x, t.to(x).expand(len(x))), t)

    def scales(self, t: Tensor, t_next: Tensor) -> tuple[float, float]:
        """What x and constant latents are multiplied by in a step, so that the rest of it is noise that stays."""
        (alpha, sigma), (alpha_next, sigma_next) = (self.process.coefficients(time) for time in (t, t_next))
        return float(sigma_next / sigma), float(alpha_next - sigma_next / sigma * alpha)

    def log_ratio(self, t: Tensor) -> float:
        """lambda = log(alpha / sigma), from minus infinity at noise to infinity at the data."""
        return -float(self.process.ratio(t).log())


class _Euler(_Solver):
    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        return self.process.add_noise(*self.estimate(x, t), t_next)


class _Heun(_Solver):
    """Takes the step again with the mean of the velocities at both of its ends, brought to its beginning."""

    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        here = self.estimate(x, t)
        x_next = self.process.add_noise(*here, t_next)
        if t_next == 0:
            return x_next
        there = self.estimate(self.keep(x_next), t_next)
        mean = (self.process.velocity(*here, t) + self.process.velocity(*there, t)) / 2
        return self.process.add_noise(*self.process.split(x, mean, t), t_next)


class _StochasticEuler(_Solver):
    """As much fresh noise as Bayes' rule gives for a step of the forward process taken back."""

    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        estimate = self.estimate(x, t)
        ratio, ratio_next = float(self.process.ratio(t)), float(self.process.ratio(t_next))
        kept = ratio_next / ratio  # of the noise, as a share of what a step without fresh noise leaves of it
        noise = kept * estimate.noise + math.sqrt(1 - kept**2) * self.draw_noise(x)
        return self.process.add_noise(estimate.latents, noise, t_next)


class _Past(NamedTuple):
    """An earlier estimate of the clean latents, and the lambda at which it was made."""

    latents: Tensor
    log_ratio: float


class _DPMSolverPP2M(_Solver):
    """Extends the line through the last two estimates of the clean latents to the middle of the step."""

    past: _Past | None = None

    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        now = _Past(self.estimate(x, t).latents, self.log_ratio(t))
        latents, past = now.latents, self.past
        if past is not None and math.isfinite(past.log_ratio) and t_next > 0:
            ahead = (self.log_ratio(t_next) - now.log_ratio) / (now.log_ratio - past.log_ratio)
            latents = latents + ahead / 2 * (latents - past.latents)
        self.past = now
        of_x, of_latents = self.scales(t, t_next)
        return of_x * x + of_latents * latents


class _UniPC(_Solver):
    """Predicts as DPM-Solver++(2M) does, up to its weights; the next evaluation then serves to take the step again.

    The clean latents are taken for a polynomial in lambda through the estimates at hand; see `_weights`.
    """

    past: _Past | None = None
    last: tuple[Tensor, Tensor, _Past, _Past | None] | None = None

    def __call__(self, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        latents = self.estimate(x, t).latents
        if self.last is not None:
            x = self._step(*self.last, t, corrected_by=latents)
        now = _Past(latents, self.log_ratio(t))
        past = self.past if self.past is not None and math.isfinite(self.past.log_ratio) else None
        self.last, self.past = (x, t, now, past), now
        return self._step(x, t, now, past, t_next)

    def _step(
        self, x: Tensor, t: Tensor, now: _Past, past: _Past | None, t_next: Tensor, corrected_by: Tensor | None = None
    ) -> Tensor:
        h = self.log_ratio(t_next) - now.log_ratio
        places, differences = [], []
        if past is not None and math.isfinite(h):
            places.append((past.log_ratio - now.log_ratio) / h)
            differences.append(past.latents - now.latents)
        if corrected_by is not None:
            places.append(1.0)
            differences.append(corrected_by - now.latents)
        of_x, of_latents = self.scales(t, t_next)
        stepped = of_x * x + of_latents * now.latents
        for weight, difference in zip(_weights(places, h), differences, strict=True):
            stepped = stepped + of_latents * weight * difference
        return stepped


def _weights(places: list[float], h: float) -> list[float]:
    """How much of each difference of latents enters a step of length h in lambda.

    Two of them, at `places` in units of h, set a parabola, which is integrated exactly (equation 9: the weights times
    the places, and times their squares, give the two moments). One alone enters with half its slope (section 3.1).
    """
    if len(places) < 2:
        return [0.5 / place for place in places]
    r, s = places
    mean = -1 / math.expm1(-h) - 1 / h
    mean_square = -1 / math.expm1(-h) - 2 / h * mean
    return [(mean_square - mean * s) / (r * (r - s)), (mean_square - mean * r) / (s * (s - r))]


_SOLVERS: dict[str, type[_Solver]] = {
    "euler": _Euler,
    "heun": _Heun,
    "dpmpp_2m": _DPMSolverPP2M,
    "unipc": _UniPC,
    "stochastic_euler": _StochasticEuler,
}
