"""The table in the terminal."""

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from data.dataset_info import bucket_name
from data.report.drops import Drop, find_drops
from data.report.tables import clips_per_bucket

_JOINERS = "\u200c\u200d"
"""Invisible, and parts of emoji and of words in some scripts."""

MAX_NAME = 60
"""Characters of a name in the terminal."""


def summary(videos: pa.Table, clips: pa.Table) -> str:
    """The counts, the shapes that were kept, what each rule dropped, and what was noticed of the videos with clips."""
    with_clips = videos.filter(pc.greater(videos["clips"], 0))
    kept = clips["rule"].null_count
    lines = [
        f"videos: {len(videos):,} in, {len(with_clips):,} with clips, {len(videos) - len(with_clips):,} without",
        f"clips: {len(clips):,} cut, {kept:,} kept, {len(clips) - kept:,} dropped",
    ]
    if buckets := clips_per_bucket(clips):
        lines.append("kept, by frames x height x width:")
        lines += _columns([bucket_name(shape), f"{count:,}", share(count, kept)] for shape, count in buckets.items())
    if drops := find_drops(videos, clips):
        lines.append("dropped:")
        heads = ["", "videos", "clips", "limit", "median", "reason"]
        lines += _columns([heads, *(_row(drop) for drop in drops)])
    if notes := count_notes(with_clips):
        lines.append("noticed of videos with clips:")
        lines += [f"  {count:>6,}  {shown(note)}" for note, count in notes]
    return "\n".join(lines)


def count_notes(videos: pa.Table) -> list[tuple[str, int]]:
    """How many videos each note was made of, the most frequent first."""
    counts = Counter(pc.list_flatten(videos["notes"]).to_pylist())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def shown(text: str) -> str:
    """On one line of a terminal or a page, whatever characters a file name has."""
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, length: int) -> str:
    """At most so many characters: what is too long loses its middle, since names differ at their ends."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[-tail:]


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits, or to a whole number where that has more; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def limit(value: float | None) -> str:
    """A threshold as the config has it."""
    return number(value, 6)


def share(part: int, whole: int) -> str:
    """In percent."""
    percent = 100 * part / whole
    return f"{percent:.0f}%" if percent >= 1 or part == 0 else "<1%"


def _row(drop: Drop) -> list[str]:
    counts = [f"{count:,}" if count else "" for count in (drop.videos, drop.clips)]
    words = f"{shown(drop.reason)}, such as {shortened(shown(drop.example), MAX_NAME)}"
    return [shown(drop.rule), *counts, limit(drop.threshold), number(drop.median), words]


def _columns(rows: Iterable[list[str]]) -> list[str]:
    """Indented, the first and a last one of words at the left, those between at the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others[:4], widths[1:5], strict=True)]
        lines.append("  " + "  ".join([*cells, *others[4:]]).rstrip())
    return lines
