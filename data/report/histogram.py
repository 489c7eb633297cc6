"""Histograms of two kinds of rows, and their charts as SVG."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.report.markup import Markup, element
from data.report.summary import limit, number

MAX_BINS = 24
WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 10, 22
"""Of the SVG, in its own units, and the margins around its plot."""

Values = NDArray[np.float64]


class Histogram(NamedTuple):
    """Bins between ascending edges [N + 1], with counts [N] of the rows that were kept and of those that were dropped.

    The first and the last bin also hold what lies beyond them: `below` and `above` count it.
    """

    edges: Values
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    below: int
    above: int


def histogram(kept: Values, dropped: Values, limits: tuple[float, ...] = ()) -> Histogram:
    """
    Args:
        kept, dropped: finite numbers, at least one in both together.
        limits: thresholds, which the edges take in unless they are far out.
    """
    values = np.concatenate((kept, dropped))
    edges = _edges(values, limits)
    counts = [np.histogram(values.clip(edges[0], edges[-1]), edges)[0] for values in (kept, dropped)]
    return Histogram(edges, *counts, int((values < edges[0]).sum()), int((values > edges[-1]).sum()))


def _edges(values: Values, limits: tuple[float, ...]) -> Values:
    """At most about `MAX_BINS` + 1 multiples of 1, 2 or 5 times a power of ten."""
    low, high = float(values.min()), float(values.max())
    bulk_low, bulk_high = (float(edge) for edge in np.quantile(values, (0.01, 0.99)))
    bulk = bulk_high - bulk_low
    if bulk > 0:  # a few rows far out would squeeze all others into one bin
        high = bulk_high if high - bulk_high > bulk else high
        low = bulk_low if bulk_low - low > bulk else low
    for mark in limits:
        if low - (high - low) <= mark <= high + (high - low):
            low, high = min(low, mark), max(high, mark)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    elif 0 <= low < high / 2:
        low = 0.0
    step, power = _round_step((high - low) / MAX_BINS)
    if power < 0 and high - low > 6 and (values == values.round()).all():
        step, power = 1, 0
    scaled = np.arange(_floor(low, step, power), -_floor(-high, step, power) + 1) * float(step)
    return scaled * 10.0**power if power >= 0 else scaled / 10.0**-power  # a division is right to the last bit


def _round_step(least: float) -> tuple[int, int]:
    """The smallest (1, 2 or 5, power of ten) that is not below `least`."""
    power = math.floor(math.log10(least))
    for factor in (1, 2, 5):
        if factor * 10.0**power >= least * (1 - 1e-9):
            return factor, power
    return 1, power + 1


def _floor(value: float, step: int, power: int) -> int:
    """In steps; what is a multiple of the step but for rounding is that multiple."""
    steps = value / (step * 10.0**power)
    return round(steps) if abs(steps - round(steps)) < 1e-9 * max(1, abs(steps)) else math.floor(steps)


def chart(bins: Histogram, lower: float | None, upper: float | None, title: str) -> Markup:
    """The bins as SVG, dropped rows above kept ones; what lies below `lower` or above `upper` is shaded.

    A threshold outside the edges is not drawn. The colours are the page's: classes kept, dropped, outside, threshold.
    """
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    most = int((bins.kept + bins.dropped).max())
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    floor = HEIGHT - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + plot_width * (value - low) / (high - low), 2)

    def bar(kind: str, left: float, right: float, bottom: float, height: float, *children: str) -> Markup:
        top = round(bottom - height, 2)
        return element("rect", *children, class_=kind, x=left, y=top, width=round(right - left, 2), height=height)

    parts = []
    for begin, end in ((low, lower), (upper, high)):
        if begin is not None and end is not None and low <= begin <= end <= high:
            parts.append(bar("outside", x(begin), x(end), floor, plot_height))
    for left, right, kept, dropped in zip(bins.edges[:-1], bins.edges[1:], bins.kept, bins.dropped, strict=True):
        heights = [max(1.0, round(plot_height * count / most, 2)) if count else 0.0 for count in (kept, dropped)]
        words = element("title", f"{number(left)} to {number(right)}: {kept:,} kept, {dropped:,} dropped")
        gap = 0.5
        if kept:
            parts.append(bar("kept", x(left) + gap, x(right) - gap, floor, heights[0], words))
        if dropped:
            parts.append(bar("dropped", x(left) + gap, x(right) - gap, floor - heights[0], heights[1], words))
    parts.append(element("path", class_="axis", d=f"M{LEFT} {floor}H{WIDTH - RIGHT}"))
    for threshold in (lower, upper):
        if threshold is not None and low <= threshold <= high:
            words = element("title", limit(threshold))
            parts.append(element("path", words, class_="threshold", d=f"M{x(threshold)} {TOP - 6}V{floor}"))
    for value in _ticks(low, high):
        parts.append(element("text", number(value), x=x(value), y=HEIGHT - 6, text_anchor="middle"))
    for count, y in ((most, TOP + 8), (0, floor)):
        parts.append(element("text", f"{count:,}", x=LEFT - 6, y=y, text_anchor="end"))
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in this range, about five."""
    step, power = _round_step((high - low) / 5)
    first, last = -_floor(-low, step, power), _floor(high, step, power)
    scaled = [float(step * index) for index in range(first, last + 1)]
    return [value * 10.0**power if power >= 0 else value / 10.0**-power for value in scaled]
