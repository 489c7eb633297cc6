import pytest

from video_dit.evaluation.accuracy import wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_equals_published_values(successes: int, trials: int, low: float, high: float) -> None:
    """The last row is the example of Newcombe 1998, table I; the others are roots of (p - x)^2 = z^2 x (1 - x) / n."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
