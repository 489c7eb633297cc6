"""A line chart as a picture, drawn with Pillow."""

import math

from PIL import Image, ImageDraw, ImageFont


def line_chart(
    series: dict[str, list[tuple[float, float]]], x_label: str, y_label: str, level: float | None = None
) -> Image.Image:
    """Lines through points, both axes from zero, with a legend; `level` is a y to mark across the chart."""
    colours = ("#222222", "#d95f02", "#1b7837", "#2166ac", "#762a83", "#b2182b")
    width, height, left, top, right = 900, 560, 90, 40, 30
    bottom = 80 + 24 * len(series)  # the legend stands below the axis, where it hides nothing
    x_step, x_max = ticks(max(x for points in series.values() for x, _ in points))
    y_step, y_max = ticks(max(y for points in series.values() for _, y in points))
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=15)

    def place(x: float, y: float) -> tuple[float, float]:
        plot_width, plot_height = width - left - right, height - top - bottom
        return left + plot_width * x / x_max, height - bottom - plot_height * y / y_max

    for index in range(round(x_max / x_step) + 1):
        x = index * x_step
        draw.line((*place(x, 0), *place(x, y_max)), fill="#e4e4e4")
        draw.text((place(x, 0)[0], height - bottom + 8), f"{x:g}", fill="black", font=font, anchor="mt")
    for index in range(round(y_max / y_step) + 1):
        y = index * y_step
        draw.line((*place(0, y), *place(x_max, y)), fill="#e4e4e4")
        draw.text((left - 8, place(0, y)[1]), f"{y:g}", fill="black", font=font, anchor="rm")
    draw.line((*place(0, y_max), *place(0, 0), *place(x_max, 0)), fill="black", width=2)
    draw.text(((left + width - right) / 2, height - bottom + 30), x_label, fill="black", font=font, anchor="mt")
    draw.text((left - 8, top - 14), y_label, fill="black", font=font, anchor="rb")
    if level is not None:
        draw.line((*place(0, level), *place(x_max, level)), fill="#999999", width=2)
    for row, ((name, points), colour) in enumerate(zip(series.items(), colours, strict=False)):
        draw.line([place(*point) for point in points], fill=colour, width=3)
        for point in points:
            draw.circle(place(*point), 5, fill=colour)
        legend_y = height - bottom + 68 + 24 * row
        draw.line((left, legend_y, left + 30, legend_y), fill=colour, width=3)
        draw.text((left + 40, legend_y), name, fill="black", font=font, anchor="lm")
    return image


def ticks(largest: float) -> tuple[float, float]:
    """A step of 1, 2 or 5 times a power of ten that divides an axis into at most ten, and the axis' end."""
    magnitude = 10 ** math.floor(math.log10(largest / 10))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if largest <= 10 * factor * magnitude * (1 + 1e-9))
    return step, math.ceil(largest / step - 1e-9) * step
