"""Which numbers of videos and clips are charted, and which keys of [filters] limit them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.report.tables import scorers_of


class Limit(NamedTuple):
    """A threshold: key of the config, and its value."""

    key: str
    value: float


class Scores(NamedTuple):
    """A number that videos or clips have.

    title, unit: in words.
    kept, dropped: of the rows that have it.
    missing: how many rows have none.
    lower, upper: the limits, where the config sets them.
    """

    title: str
    unit: str
    kept: NDArray[np.float64]
    dropped: NDArray[np.float64]
    missing: int
    lower: Limit | None
    upper: Limit | None


_CLIP_SCORES = {
    "seconds": ("Length of clips", "seconds"),
    "motion": ("Motion", "picture heights per second"),
    "brightness": ("Brightness", "mean luma, of 1"),
    "change": ("Change between frames", "mean difference, of 1"),
    "bars": ("Bars at the edges", "share of the picture"),
    "sharpness": ("Sharpness", "variance of the Laplacian"),
    "difference": ("Difference from the clips before", "share of hash bits"),
}


def charted(videos: pa.Table, clips: pa.Table, filters: Mapping[str, Any]) -> list[Scores]:
    """All of them, in the order of the report; those that no row has are empty.

    Args:
        videos, clips: the tables.
        filters: the config's table.
    """
    height, width = (videos[name].to_numpy().astype(np.float64) for name in ("height", "width"))
    aspect = np.divide(width, height, out=np.full(len(videos), np.nan), where=height > 0)
    video_is_kept, clip_is_kept = (table["rule"].is_null().to_numpy() for table in (videos, clips))

    def scores(title: str, unit: str, values: NDArray[Any], is_kept: NDArray[np.bool_], name: str | None) -> Scores:
        values = values.astype(np.float64)
        known = np.isfinite(values)
        kept, dropped = values[known & is_kept], values[known & ~is_kept]
        return Scores(title, unit, kept, dropped, int((~known).sum()), *_limits(filters, name))

    found = [
        scores("Duration of videos", "seconds", videos["seconds"].to_numpy(), video_is_kept, "seconds"),
        scores("Frame rate of videos", "frames per second", videos["frame_rate"].to_numpy(), video_is_kept, None),
        scores("Size of videos", "pixels of the shorter side", np.fmin(height, width), video_is_kept, "side"),
        scores("Aspect of videos", "width / height", aspect, video_is_kept, "aspect"),
    ]
    for column, (title, unit) in _CLIP_SCORES.items():
        name = None if column == "seconds" else column
        found.append(scores(title, unit, clips[column].to_numpy(), clip_is_kept, name))
    for column in scorers_of(clips):
        found.append(scores(column, "score of your own", clips[column].to_numpy(), clip_is_kept, column))
    lengths = _caption_lengths(clips["captions"])
    lengths = lengths if lengths.any() else np.full(len(clips), np.nan)
    found.append(scores("Caption length", "characters of the longest", lengths, clip_is_kept, "caption_length"))
    return found


def _caption_lengths(captions: pa.ChunkedArray) -> NDArray[np.float64]:
    """Characters of the longest caption of each row; 0 where there is none."""
    longest = np.zeros(len(captions))
    lists = captions.combine_chunks()
    np.maximum.at(longest, pc.list_parent_indices(lists), pc.utf8_length(pc.list_flatten(lists)))
    return longest


def _limits(filters: Mapping[str, Any], name: str | None) -> tuple[Limit | None, Limit | None]:
    """Of a number: from its own keys, or from those of the scorers."""
    found = []
    for bound in ("min", "max"):
        of_scorers = filters.get(f"{bound}_scores", {})
        if name in of_scorers:
            found.append(Limit(f"filters.{bound}_scores.{name}", of_scorers[name]))
        elif filters.get(f"{bound}_{name}") is not None:
            found.append(Limit(f"filters.{bound}_{name}", filters[f"{bound}_{name}"]))
        else:
            found.append(None)
    return found[0], found[1]
