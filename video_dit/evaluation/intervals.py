"""How sure a measure is, from the clips, or the seeds, that it was measured on."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from video_dit.errors import UserError


class Interval(NamedTuple):
    """value: what was measured on all clips; low, high: the ends of its interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    scores: NDArray[np.floating],
    statistic: Callable[[NDArray[np.floating]], float] = lambda scores: float(np.mean(scores)),
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap (Efron and Tibshirani 1993, chapter 13): quantiles of the statistic of N scores that are
    drawn with replacement.

    It is for statistics of scores, one for each clip. A distance between sets sees a clip that was drawn twice as two
    that are alike, and is another one: see `half_sample_interval`.

    Args:
        scores: [N, ...], finite, N of at least 2; those of a clip are drawn together.
        statistic: of such an array.
        confidence: above 0 and below 1.
        num_resamples: how many times N clips are drawn.
        seed: of the draws; the same one gives the same interval.

    Raises:
        UserError: there are fewer than 2 clips, or scores that are not finite.
    """
    _check_count(len(scores))
    if not np.isfinite(scores).all():
        raise UserError("scores are not all finite, so that they have no interval: leave those clips out and say so")
    rng = np.random.default_rng(seed)
    values = [statistic(scores[rng.integers(len(scores), size=len(scores))]) for _ in range(num_resamples)]
    low, high = np.quantile(values, _tails(confidence))
    return Interval(statistic(scores), float(low), float(high))


def half_sample_interval(
    distance: Callable[[Tensor, Tensor], float],
    a: Tensor,
    b: Tensor,
    confidence: float = 0.95,
    num_resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """The distance of all clips, and how far those of random halves of both sets are from their own mean.

    Halves drawn without replacement vary about as a whole set drawn anew would (McCarthy 1969, Politis and Romano
    1994): a mean has the variance s^2 / (N / 2), times the half that is left out. They are taken around their own mean,
    since a Fréchet distance of fewer clips is larger. Where both sets are of one distribution a distance varies with
    1 / N, not with its root, and the interval is too wide.

    Args:
        distance: such as `frechet_distance` and `kernel_distance`.
        a: [N, ..., D], N of at least 4; what a clip has is drawn together.
        b: [M, ..., D], M of at least 4.
        confidence: above 0 and below 1.
        num_resamples: how many pairs of halves are drawn.
        seed: of the draws; the same one gives the same interval.

    Raises:
        UserError: a set has fewer than 4 clips.
    """
    _check_count(min(len(a), len(b)), 4)
    rng = np.random.default_rng(seed)

    def half(features: Tensor) -> Tensor:
        return features[rng.permutation(len(features))[: len(features) // 2]]

    values = np.array([distance(half(a), half(b)) for _ in range(num_resamples)])
    low, high = np.quantile(values - values.mean(), _tails(confidence))
    value = distance(a, b)
    return Interval(value, value + float(low), value + float(high))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The interval of the mean of normally distributed values (Student 1908); None for a single one.

    Args:
        values: one or more, independent of each other.
        confidence: above 0, below 1.
    """
    if len(values) < 2:
        return None
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    mean, half_width = fmean(values), quantile * stdev(values) / math.sqrt(len(values))
    return mean - half_width, mean + half_width


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


def _check_count(count: int, at_least: int = 2) -> None:
    if count < at_least:
        raise UserError(f"an interval of {count} clips was asked for, and it needs {at_least}: give more clips")
