"""A chart of means with their intervals, a line for each of several things, drawn with Pillow."""

from collections.abc import Sequence
from typing import NamedTuple

from line_chart import ticks
from PIL import Image, ImageDraw, ImageFont

_LINE, _PANEL, _TOP, _MARGIN = 30, 320, 60, 24
"""Pixels: height of a line, width of a panel, space above, and around."""


class Point(NamedTuple):
    """interval: None where there is none to show."""

    mean: float
    interval: tuple[float, float] | None


class Panel(NamedTuple):
    """One measure of all things, on an axis of its own; shares are shown as percentages."""

    title: str
    points: Sequence[Point]
    is_share: bool


def interval_chart(names: Sequence[str], panels: Sequence[Panel]) -> Image.Image:
    """
    Args:
        names: of the things, from above.
        panels: side by side, each with a point for each of them.
    """
    font = ImageFont.load_default(size=15)
    left = _MARGIN + round(max(font.getlength(name) for name in names)) + 16
    size = left + len(panels) * (_PANEL + _MARGIN), _TOP + _LINE * len(names) + 50
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        draw.text((left - 16, _height(row)), name, fill="black", font=font, anchor="rm")
    for number, panel in enumerate(panels):
        _draw_panel(draw, font, panel, left + number * (_PANEL + _MARGIN))
    return image


def _height(row: int) -> float:
    return _TOP + _LINE * (row + 0.5)


def _draw_panel(draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont, panel: Panel, left: int) -> None:
    low, high, step = _axis(panel)
    bottom = _TOP + _LINE * len(panel.points)

    def place(value: float) -> float:
        return left + (_PANEL - _MARGIN) * (min(max(value, low), high) - low) / (high - low)

    draw.text((left, _TOP - 34), panel.title, fill="black", font=font, anchor="lm")
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        draw.line((place(value), _TOP, place(value), bottom), fill="#e4e4e4")
        words = f"{100 * value:.3g}%" if panel.is_share else f"{value:.4g}"
        draw.text((place(value), bottom + 8), words, fill="black", font=font, anchor="mt")
    for row, point in enumerate(panel.points):
        y = _height(row)
        if point.interval is not None:
            first, last = map(place, point.interval)
            draw.line((first, y, last, y), fill="#2166ac", width=3)
            for end in (first, last):
                draw.line((end, y - 5, end, y + 5), fill="#2166ac", width=2)
        draw.circle((place(point.mean), y), 5, fill="#222222")


def _axis(panel: Panel) -> tuple[float, float, float]:
    """Both ends, and the step between its numbers; shares end at 0 and 1, where an interval may not."""
    values = [value for point in panel.points for value in (point.mean, *(point.interval or ()))]
    low, high = min(values), max(values)
    if panel.is_share:
        low, high = max(0.0, low), min(1.0, high)
    if high - low < 1e-9:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    step = 2 * ticks(high - low)[0]
    first, last = low // step, -(-high // step)
    return first * step, last * step, step
