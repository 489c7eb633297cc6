"""From noise to data along a velocity field."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from video_dit.diffusion import VelocityField
from video_dit.diffusion.timesteps import shift_t

Solver = Literal["euler", "heun"]


def solve(
    velocity: VelocityField,
    noise: Tensor,
    num_steps: int,
    solver: Solver,
    shift: float = 1.0,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Integrates dx/dt = velocity(x, t) from t = 1 to t = 0.

    Args:
        velocity: the field.
        noise: [B, C, F, H, W], x at t = 1.
        num_steps: at least 1.
        solver: "euler" (first order, one evaluation a step) or "heun" (second order, two, but one in the last step,
            as in Karras et al. 2022, arXiv 2206.00364, algorithm 1).
        shift: spaces the steps; 1 is equal steps, see `shift_t`.
        on_step: called with the number of steps done, after each.

    Returns:
        x at t = 0, the shape of `noise`.
    """
    x = noise
    times = shift_t(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), shift).tolist()
    for step, (t, t_next) in enumerate(pairwise(times)):
        slope = velocity(x, x.new_full(x.shape[:1], t))
        x_next = x + (t_next - t) * slope
        if solver == "heun" and t_next > 0:
            slope_next = velocity(x_next, x.new_full(x.shape[:1], t_next))
            x_next = x + (t_next - t) * (slope + slope_next) / 2
        x = x_next
        if on_step is not None:
            on_step(step + 1)
    return x
