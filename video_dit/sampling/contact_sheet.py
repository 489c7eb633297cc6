"""One picture of several clips: a row for each, frames from left to right."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT = 22
GAP = 4
MIN_FRAME_HEIGHT = 96


def contact_sheet(clips: NDArray[np.uint8], labels: list[str], num_columns: int = 8) -> Image.Image:
    """Frames spread evenly over each clip, under the clip's label; small frames are magnified without smoothing.

    Args:
        clips: [B, F, H, W, 3].
        labels: B texts.
        num_columns: frames per clip, at most.
    """
    num_frames, height, width = clips.shape[1:4]
    shown = np.unique(np.linspace(0, num_frames - 1, num_columns).round().astype(int))
    magnification = max(1, -(-MIN_FRAME_HEIGHT // height))
    cell_height, cell_width = height * magnification, width * magnification
    row_height = LABEL_HEIGHT + cell_height + GAP
    sheet = Image.new("RGB", (len(shown) * (cell_width + GAP) + GAP, len(clips) * row_height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for row, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        top = row * row_height + GAP
        draw.text((GAP, top), label, fill="black", font=font)
        for column, index in enumerate(shown):
            frame = Image.fromarray(clip[index]).resize((cell_width, cell_height), Image.Resampling.NEAREST)
            sheet.paste(frame, (GAP + column * (cell_width + GAP), top + LABEL_HEIGHT))
    return sheet
