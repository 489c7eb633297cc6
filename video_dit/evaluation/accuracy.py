"""Shares with their uncertainty."""

import math


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share at 95% confidence (Wilson 1927, equation 6): honest for shares near 0 and 1 as well.

    Args:
        successes: how many of the trials succeeded.
        trials: at least 1.
        z: quantile of the normal distribution.
    """
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half_width = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)
