"""Power-function averages of the weights, and one of any width from snapshots of others (arXiv 2312.02696, section 3).

After t steps, such an average weighs the weights of time u in [0, t] by (g + 1) u^g / t^(g + 1): its profile. The width
is the profile's standard deviation as a share of t, so that an average keeps its shape however long the run is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from video_dit.errors import UserError
from video_dit.run_folder import RunFolder, step_of

WIDEST = 12**-0.5
"""Of a profile that does not fall with time: that of the plain mean."""


def exponent_of(width: float) -> float:
    """g, for which width^2 = (g + 1) / ((g + 2)^2 (g + 3)) (appendix C); `width` in (0, `WIDEST`]."""
    s = width**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def power_decay(step: int, width: float) -> float:
    """How much of the average the step after `step` others keeps; nothing in the first.

    The weights of step i then count for exactly the part of the profile from i - 1 to i.
    """
    return float((step / (step + 1)) ** (exponent_of(width) + 1))


def power_name(width: float) -> str:
    return f"power-{width}"


class Snapshot(NamedTuple):
    """A file with the average of a width after some steps."""

    step: int
    width: float
    file: Path


def snapshots_of(run: RunFolder, step: int | None = None) -> list[Snapshot]:
    """Those of a run up to a step, which must have some; None: all.

    Raises:
        UserError: there are none.
    """
    found = [
        Snapshot(step_of(folder), float(file.stem.partition("-")[2]), file)
        for folder in run.snapshots()
        for file in sorted(folder.glob("power-*.safetensors"))
    ]
    steps = list(dict.fromkeys(snapshot.step for snapshot in found))
    if not steps:
        raise UserError(f"{run.path} has no snapshots: train with training.ema_widths=[0.05, 0.1], which makes them")
    if step is not None and step not in steps:
        raise UserError(f"{run.path} has no snapshots of step {step}: name one of {', '.join(map(str, steps))}")
    return [snapshot for snapshot in found if step is None or snapshot.step <= step]


class Fit(NamedTuple):
    """How snapshots combine.

    factors: one for each.
    error: the L2 norm of what their profile misses of the wanted one, relative to that one's.
    """

    factors: NDArray[np.float64]
    error: float


def fit(snapshots: Sequence[Snapshot], step: int, width: float) -> Fit:
    """The combination whose profile is nearest in least squares to that of a width after some steps (algorithm 3).

    Its factors add up to 1, which the paper does not ask for: what hardly moves makes up most of the weights, and must
    come out as it is.

    Raises:
        UserError: no profile has such a width.
    """
    if not 0 < width <= WIDEST:
        raise UserError(f"the width is {width:g}, and must be above 0 and at most {WIDEST:.4f}: that of the plain mean")
    times = np.array([snapshot.step / step for snapshot in snapshots])
    exponents = np.array([exponent_of(snapshot.width) for snapshot in snapshots])
    wanted = np.ones(1), np.array([exponent_of(width)])
    among = inner_products(times, exponents, times, exponents)
    with_wanted = inner_products(times, exponents, *wanted)[:, 0]
    ones = np.ones((len(snapshots), 1))
    constrained = np.block([[among, ones], [ones.T, np.zeros((1, 1))]])
    factors = np.linalg.lstsq(constrained, np.append(with_wanted, 1), rcond=None)[0][:-1]
    norm = inner_products(*wanted, *wanted)[0, 0]
    missed = norm - 2 * factors @ with_wanted + factors @ among @ factors
    return Fit(factors, float(np.sqrt(max(0.0, missed) / norm)))


def inner_products(
    times_a: NDArray[np.float64],
    exponents_a: NDArray[np.float64],
    times_b: NDArray[np.float64],
    exponents_b: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[A, B]: the integral over time of the product of each profile [A] with each other [B], in closed form."""
    t_a, g_a, t_b, g_b = times_a[:, None], exponents_a[:, None], times_b, exponents_b
    longer, g_longer = np.maximum(t_a, t_b), np.where(t_a > t_b, g_a, g_b)
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * (np.minimum(t_a, t_b) / longer) ** g_longer / longer


def combine(snapshots: Sequence[Snapshot], factors: NDArray[np.float64]) -> dict[str, Tensor]:
    """The sum of the snapshots by their factors, in fp32; one file at a time is read, and summed in fp64."""
    total: dict[str, Tensor] = {}
    for snapshot, factor in zip(snapshots, factors.tolist(), strict=True):
        with safe_open(snapshot.file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118, which is no dict
                term = weights.get_tensor(name).double() * factor
                total[name] = total[name].add_(term) if name in total else term
    return {name: tensor.to(torch.float32) for name, tensor in total.items()}
