"""How many clips of moving shapes show what their prompts ask for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.shapes_dataset.oracle import read
from data.shapes_dataset.render import ALL_ATTRIBUTES, Attributes
from video_dit.evaluation.accuracy import wilson_interval


def score(asked: list[Attributes], clips: NDArray[np.uint8]) -> dict[str, object]:
    """The shares of clips that are read as asked: in all three, with its 95% interval, and in each."""
    read_as = [read(clip) for clip in clips]
    num_right = sum(a == b for a, b in zip(asked, read_as, strict=True))
    shares = {
        name: sum(getattr(a, name) == getattr(b, name) for a, b in zip(asked, read_as, strict=True)) / len(asked)
        for name in ("colour", "shape", "direction")
    }
    interval = list(wilson_interval(num_right, len(asked)))
    return {"all": num_right / len(asked), **shares, "clips": len(asked), "interval": interval}


def shapes_asked_for(prompts: Sequence[str]) -> list[Attributes] | None:
    """What captions of the built-in shapes ask for; None where one is no such caption."""
    known = {attributes.caption: attributes for attributes in ALL_ATTRIBUTES}
    return [known[prompt] for prompt in prompts] if known.keys() >= set(prompts) else None
