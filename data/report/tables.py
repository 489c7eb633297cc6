"""videos.parquet and clips.parquet: what became of every input and of every clip that was cut, the dropped ones too.

Of a row that was dropped, `rule` is the config key that did it, such as filters.min_motion, or a word, such as
unreadable; `reason` says it in words; `score` and `threshold` are null where the rule compares no numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.probe import VideoInfo
from video_dit.errors import UserError

VIDEOS_FILE = "videos.parquet"
CLIPS_FILE = "clips.parquet"

SCORES = ("brightness", "change", "bars", "motion", "sharpness", "difference")
"""Columns of clips.parquet that are measured whatever the config says; those of scorers come after them."""

_DROP = [("rule", pa.string()), ("reason", pa.string()), ("score", pa.float64()), ("threshold", pa.float64())]
_PROBED = [
    ("format", pa.string()),
    ("codec", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("rotation", pa.int32()),
    ("mirrored", pa.bool_()),
    ("sample_aspect_ratio", pa.float64()),
    ("frame_rate", pa.float64()),
    ("variable_rate", pa.bool_()),
    ("start", pa.float64()),
    ("seconds", pa.float64()),
    ("frames", pa.int64()),
    ("stream", pa.int32()),
    ("streams", pa.list_(pa.string())),
    ("pixel_format", pa.string()),
    ("bit_depth", pa.int32()),
    ("color_range", pa.string()),
    ("hdr", pa.string()),
]
VIDEO_SCHEMA = pa.schema(
    [("id", pa.string()), ("clips", pa.int32()), *_DROP, ("notes", pa.list_(pa.string())), *_PROBED]
)
"""One row per input. Null: the drop's columns where it was not dropped as a whole, the probe's where there was none."""


def clip_schema(scorers: Iterable[str]) -> pa.Schema:
    """One row per clip that was cut, with a column per scorer. Null: the drop's columns of one that was kept; its shape
    and shard of one that was dropped; scores that were not measured.

    Args:
        scorers: the names in `filters.scorers`.

    Raises:
        UserError: a scorer has the name of a column that is there already.
    """
    before = [("id", pa.string()), ("video", pa.string()), ("shot", pa.int32())]
    before += [("start", pa.float64()), ("seconds", pa.float64())]
    before += [(name, pa.float64()) for name in SCORES] + [("duplicate_of", pa.string())]
    after = [("captions", pa.list_(pa.string())), ("weights", pa.list_(pa.float64()))]
    after += [(name, pa.int32()) for name in ("frames", "height", "width")] + [("shard", pa.string()), *_DROP]
    names = [name for name, _ in before + after]
    for name in scorers:
        if name in names:
            raise UserError(
                f"filters.scorers names {name!r}, which is a column of {CLIPS_FILE} already: give it another name"
            )
    return pa.schema([*before, *((name, pa.float64()) for name in scorers), *after])


def build_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of rows that name their columns; a column that a row does not name is null."""
    rows = list(rows)
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"no columns of this table: {sorted(unknown)}"  # pyarrow would leave them out without a word
    return pa.Table.from_pylist(rows, schema=schema)


def probed_columns(info: VideoInfo) -> dict[str, Any]:
    """What the probe says of a video, by the columns of videos.parquet; `rotation` is counter-clockwise."""
    height, width = info.size
    return {
        "format": info.format,
        "codec": info.codec,
        "height": height,
        "width": width,
        "rotation": 90 * info.quarter_turns,
        "mirrored": info.mirrored,
        "sample_aspect_ratio": float(info.sample_aspect_ratio),
        "frame_rate": info.average_rate,
        "variable_rate": info.variable_rate,
        "start": info.start,
        "seconds": info.duration,
        "frames": info.num_frames,
        "stream": info.stream,
        "streams": [f"{stream.kind} ({stream.codec or 'unknown'})" for stream in info.streams],
        "pixel_format": info.pixel_format,
        "bit_depth": info.bit_depth,
        "color_range": info.color_range,
        "hdr": info.hdr,
    }


def table_bytes(table: pa.Table) -> bytes:
    """As Parquet; the same table gives the same bytes."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue().to_pybytes()  # type: ignore[no-any-return]


def scorers_of(clips: pa.Table) -> list[str]:
    """The names of the columns that scorers made."""
    fixed = set(clip_schema(()).names)
    return [name for name in clips.schema.names if name not in fixed]


def clips_per_bucket(clips: pa.Table) -> dict[tuple[int, int, int], int]:
    """How many clips were kept of each shape (frames, height, width), the most frequent first."""
    shapes = ["frames", "height", "width"]
    kept = clips.select([*shapes, "rule"]).filter(clips["rule"].is_null())
    counts = kept.group_by(shapes, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    found = {(row["frames"], row["height"], row["width"]): row["count_all"] for row in counts}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
