"""Means with their uncertainty."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit


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
