"""Densities over t from which training draws (arXiv 2403.03206, section 3.1)."""

from typing import Literal

import torch
from torch import Tensor

TimestepSampler = Literal["uniform", "logit_normal"]


def shift_t(t: Tensor, shift: float) -> Tensor:
    """Moves t in [0, 1] towards noise by a factor of `shift` in the noise-to-signal ratio t / (1 - t); 1 leaves it.

    The more pixels show the same thing, the more noise it takes to hide it (arXiv 2403.03206, equation 23).
    """
    return shift * t / (1 + (shift - 1) * t)


def sample_t(
    shape: tuple[int, ...],
    sampler: TimestepSampler,
    mean: float,
    std: float,
    shift: float,
    generator: torch.Generator,
) -> Tensor:
    """Timesteps in (0, 1).

    Args:
        shape: of the result.
        sampler: "uniform", or "logit_normal" (equation 19), where logit(t) is normal with `mean` and `std`.
        mean: above 0 draws more noise, below 0 less; not read by "uniform".
        std: spread of the logit; not read by "uniform".
        shift: applied to what was drawn, see `shift_t`.
        generator: source of randomness.
    """
    if sampler == "uniform":
        t = torch.rand(shape, generator=generator)
    else:
        t = torch.sigmoid(mean + std * torch.randn(shape, generator=generator))
    return shift_t(t, shift)
