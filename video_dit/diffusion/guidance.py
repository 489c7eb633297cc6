"""Ways to follow a prompt more closely than the network does by itself."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from video_dit.config import GuidanceMethod, Prediction, SamplingConfig
from video_dit.contracts import TextCondition
from video_dit.diffusion import Denoiser, VelocityField
from video_dit.diffusion.objective import to_velocity
from video_dit.diffusion.processes import Process


@dataclass(frozen=True)
class Guidance:
    """How the answers to the prompt and to the negative prompt become one.

    scale: 1 is no guidance.
    method:
        "cfg": negative + scale (positive - negative) (Ho and Salimans 2022, arXiv 2207.12598).
        "cfg_zero_star": the same with the multiple of the negative velocity that is nearest to the positive one (Fan et
            al. 2025, arXiv 2503.18886, section 4.1).
        "apg": adaptive projected guidance, on the clean latents: of their difference, the part along the positive
            prediction is left out (Sadat et al. 2024, arXiv 2410.02416, section 5, with eta = 0).
    interval: guided while low <= t <= high only (Kynkaanniemi et al. 2024, arXiv 2404.07724).
    rescale: share in which the guided clean latents get back the standard deviation of the positive ones (Lin et al.
        2023, arXiv 2305.08891, equations 14 to 16).
    apg_norm: the difference is cut to this root mean square; None: it is not.
    apg_momentum: share of the differences of earlier evaluations that is added; below 0 as in the paper.
    batched: both answers come from one batch of twice the size, else one after the other.
    """

    scale: float = 1.0
    method: GuidanceMethod = "cfg"
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    apg_norm: float | None = None
    apg_momentum: float = 0.0
    batched: bool = True

    @classmethod
    def of(cls, config: SamplingConfig) -> "Guidance":
        """As the config says."""
        return cls(
            config.guidance_scale,
            config.guidance,
            config.guidance_interval,
            config.guidance_rescale,
            config.apg_norm,
            config.apg_momentum,
            config.guidance_batched,
        )


def guided_velocity(
    denoiser: Denoiser,
    text: TextCondition,
    negative_text: TextCondition,
    guidance: Guidance,
    process: Process,
    prediction: Prediction,
    min_t: float,
    made: Tensor | None = None,
) -> VelocityField:
    """The velocity field of a denoiser under a prompt, for one trajectory.

    Where nothing is guided (a scale of 1, or t outside the interval) the network is asked once instead of twice.

    Args:
        denoiser: the network. Batched, its first B rows are the prompts' and the others the negative ones.
        text: the prompts, B rows.
        negative_text: what to move away from, B rows; the empty prompt unless the user names another.
        guidance: see `Guidance`.
        process: the forward process.
        prediction: what the network predicts.
        min_t: see `to_velocity`.
        made: [F] bool, false on frames that are given, where the network's answers mean nothing; None: all are made.
    """
    both = TextCondition(*(torch.cat(pair) for pair in zip(text, negative_text, strict=True)))
    low, high = guidance.interval
    combine = _combination(guidance)

    def ask(x_t: Tensor, t: Tensor, condition: TextCondition) -> Tensor:
        return to_velocity(process, denoiser(x_t, t, condition), x_t, t, prediction, min_t)

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        now = float(t[0])
        if guidance.scale == 1 or not low <= now <= high:
            return ask(x_t, t, text)
        if guidance.batched:
            positive, negative = ask(torch.cat((x_t, x_t)), torch.cat((t, t)), both).chunk(2)
        else:
            positive, negative = ask(x_t, t, text), ask(x_t, t, negative_text)
        if made is None:
            return combine(process, x_t, positive, negative, t)
        guided = positive.clone()
        guided[:, :, made] = combine(process, x_t[:, :, made], positive[:, :, made], negative[:, :, made], t)
        return guided

    return velocity


Combination = Callable[[Process, Tensor, Tensor, Tensor, Tensor], Tensor]
"""The process, x_t, the two velocities and t to the guided one."""


def _combination(guidance: Guidance) -> Combination:
    momentum = _Momentum(guidance.apg_momentum)

    def combine(process: Process, x_t: Tensor, positive: Tensor, negative: Tensor, t: Tensor) -> Tensor:
        if guidance.method == "cfg_zero_star":
            negative = _along(positive, negative)
        if guidance.method != "apg":
            velocity = negative + guidance.scale * (positive - negative)
            if guidance.rescale == 0:
                return velocity
            guided, wanted = (process.split(x_t, v, t).latents for v in (velocity, positive))
        else:
            wanted, unwanted = (process.split(x_t, v, t).latents for v in (positive, negative))
            difference = _cut(momentum(wanted - unwanted), guidance.apg_norm)
            guided = wanted + (guidance.scale - 1) * (difference - _along(difference, wanted))
        factor = _std(wanted) / _std(guided).clamp(min=1e-8)
        return to_velocity(process, guided * (1 + guidance.rescale * (factor - 1)), x_t, t, "data", min_t=0.0)

    return combine


class _Momentum:
    """Adds to each difference a share of those before it."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.sum: Tensor | None = None

    def __call__(self, difference: Tensor) -> Tensor:
        self.sum = difference if self.sum is None else difference + self.share * self.sum
        return self.sum


def _along(a: Tensor, b: Tensor) -> Tensor:
    """The part of each clip of `a` in the direction of that of `b`."""
    inner, square = ((x * b).flatten(1).sum(1) for x in (a, b))
    return (inner / square.clamp(min=1e-12)).reshape(-1, 1, 1, 1, 1) * b


def _cut(difference: Tensor, norm: float | None) -> Tensor:
    if norm is None:
        return difference
    size = difference.square().flatten(1).mean(1).sqrt().reshape(-1, 1, 1, 1, 1)
    return difference * (norm / size.clamp(min=1e-8)).clamp(max=1)


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1).reshape(-1, 1, 1, 1, 1)
