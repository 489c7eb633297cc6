"""One picture of several clips: a row for each, frames from left to right."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT = 22
GAP = 4
MIN_FRAME_HEIGHT = 96
NUM_COLUMNS = 8


def spread_frames(clip: NDArray[np.uint8], num_columns: int = NUM_COLUMNS) -> NDArray[np.uint8]:
    """At most so many frames of a clip [F, H, W, 3], the first and the last and others evenly between."""
    return clip[np.unique(np.linspace(0, len(clip) - 1, num_columns).round().astype(int))]


def contact_sheet(clips: Sequence[NDArray[np.uint8]], labels: list[str], num_columns: int = NUM_COLUMNS) -> Image.Image:
    """Frames spread over each clip, under the clip's label; small frames are magnified without smoothing.

    Args:
        clips: of [F, H, W, 3] each, of any length and size.
        labels: a text for each.
        num_columns: frames per clip, at most.
    """
    rows = [_magnified(spread_frames(clip, num_columns)) for clip in clips]
    width = max(len(row) * (row[0].width + GAP) for row in rows) + GAP
    height = sum(LABEL_HEIGHT + row[0].height + GAP for row in rows) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    top = GAP
    for row, text in zip(rows, labels, strict=True):
        label = " ".join(text.split())
        while (length := draw.textlength(label, font=font)) > width - 2 * GAP:
            kept = int(len(label) * (width - 2 * GAP) / length)
            label = label[: min(kept, len(label) - 2)] + "…"
        draw.text((GAP, top), label, fill="black", font=font)
        for column, frame in enumerate(row):
            sheet.paste(frame, (GAP + column * (frame.width + GAP), top + LABEL_HEIGHT))
        top += LABEL_HEIGHT + row[0].height + GAP
    return sheet


def _magnified(frames: NDArray[np.uint8]) -> list[Image.Image]:
    height, width = frames.shape[1:3]
    times = max(1, -(-MIN_FRAME_HEIGHT // height))
    size = (width * times, height * times)
    return [Image.fromarray(frame).resize(size, Image.Resampling.NEAREST) for frame in frames]
