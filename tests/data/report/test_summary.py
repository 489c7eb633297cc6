import statistics
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from report_tables import made_tables, made_videos

from data.report.drops import find_drops
from data.report.summary import limit, number, share, shortened, shown, summary
from data.report.tables import VIDEO_SCHEMA, build_table, clip_schema

Tables = tuple[pa.Table, pa.Table]


@pytest.fixture
def tables(rng: np.random.Generator) -> Tables:
    rows = made_videos(80, rng)
    return made_tables(rows, {row["id"]: "a caption" for row in rows[::2]}, rng=rng)


def shuffled(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    return table.take(rng.permutation(len(table)))


def test_the_whole_text() -> None:
    videos = build_table(
        [
            {"id": "good.mp4", "clips": 2, "notes": ["with a caption cut to 4 tokens"]},
            {"id": "also\ngood.mp4", "clips": 1, "notes": ["with a caption cut to 4 tokens", "a note"]},
            {"id": "b/" + "x" * 80 + ".mp4", "clips": 0, "notes": ["of no interest"], "rule": "filters.min_seconds",
             "reason": "is shorter than it may be", "score": 0.5, "threshold": 1.25},
            {"id": "a.mp4", "clips": 0, "rule": "unreadable", "reason": "is empty (0 bytes)"},
        ],
        VIDEO_SCHEMA,
    )  # fmt: skip
    drop = {"rule": "filters.min_motion", "reason": "moves too little", "threshold": 0.05}
    clips = build_table(
        [
            {"id": "good.mp4#0", "frames": 8, "height": 32, "width": 32},
            {"id": "good.mp4#1", "frames": 16, "height": 32, "width": 48},
            {"id": "also\ngood.mp4#0", "frames": 8, "height": 32, "width": 32},
            {"id": "good.mp4#2", **drop, "score": 0.04}, {"id": "good.mp4#3", **drop, "score": 0.01},
            {"id": "also\ngood.mp4#1", **drop, "score": 0.02},
        ],
        clip_schema([]),
    )  # fmt: skip
    name = "b/" + "x" * 28 + "…" + "x" * 25 + ".mp4"
    assert summary(videos, clips).splitlines() == [
        "videos: 4 in, 2 with clips, 2 without",
        "clips: 6 cut, 3 kept, 3 dropped",
        "kept, by frames x height x width:",
        "  8x32x32   2  67%",
        "  16x32x48  1  33%",
        "dropped:",
        "                       videos  clips  limit  median  reason",
        "  filters.min_motion               3   0.05    0.02  moves too little, such as also\\ngood.mp4#1",
        f"  filters.min_seconds       1          1.25     0.5  is shorter than it may be, such as {name}",
        "  unreadable                1                        is empty (0 bytes), such as a.mp4",
        "noticed of videos with clips:",
        "       2  with a caption cut to 4 tokens",
        "       1  a note",
    ]


def test_nothing_in_and_nothing_dropped_are_said_in_two_lines() -> None:
    text = summary(build_table([], VIDEO_SCHEMA), build_table([], clip_schema([])))
    assert text == "videos: 0 in, 0 with clips, 0 without\nclips: 0 cut, 0 kept, 0 dropped"


def test_drops_are_what_counting_by_hand_gives(tables: Tables) -> None:
    videos, clips = tables
    drops = find_drops(videos, clips)
    for name, table in zip(("videos", "clips"), tables, strict=True):
        expected = Counter(row["rule"] for row in table.to_pylist() if row["rule"])
        found: Counter[str] = Counter()
        for drop in drops:
            found[drop.rule] += getattr(drop, name)
        assert +found == expected
    motion = [row for row in clips.to_pylist() if row["rule"] == "filters.min_motion"]
    drop = next(drop for drop in drops if drop.rule == "filters.min_motion")
    assert drop.median == pytest.approx(statistics.median(row["score"] for row in motion))
    assert drop.threshold == 0.05
    assert drop.example == min(row["id"] for row in motion)
    assert drop.as_json().keys() == {"rule", "reason", "threshold", "videos", "clips", "example"}
    totals = [drop.videos + drop.clips for drop in drops if drop.rule.startswith("filters")]
    assert totals == sorted(totals, reverse=True)


def test_a_rule_with_very_many_reasons_takes_four_lines() -> None:
    rows = [{"id": f"{k:02}", "clips": 0, "rule": "unreadable", "reason": f"{k // 2}"} for k in range(40)]
    rows += [{"id": "x", "clips": 0, "rule": "unreadable", "reason": "7"}]
    drops = find_drops(build_table(rows, VIDEO_SCHEMA), build_table([], clip_schema([])))
    assert [(drop.reason, drop.videos, drop.example) for drop in drops] == [
        ("7", 3, "14"), ("0", 2, "00"), ("1", 2, "02"), ("17 other reasons", 34, "04")
    ]  # fmt: skip
    assert sum(len(drop.reasons) for drop in drops) == 20


def test_the_order_of_the_rows_does_not_matter(tables: Tables, rng: np.random.Generator) -> None:
    other = tuple(shuffled(table, rng) for table in tables)
    assert find_drops(*other) == find_drops(*tables)
    assert summary(*other) == summary(*tables)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\x1b[31m.mp4", "two\\nlines\\x1b[31m.mp4"),
        ("right\u202eleft \udcff", "right\\u202eleft \\udcff"),
        ("👩🏽\u200d🚒 é 字", "👩🏽\u200d🚒 é 字"),
    ],
)
def test_names_stay_on_their_line(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_numbers_are_short_and_limits_are_whole() -> None:
    values = (None, 0.0, 0.04999, 12.345, 999.4, 1234.5)
    assert [number(value) for value in values] == ["", "0", "0.05", "12.3", "999", "1,234"]
    assert [limit(value) for value in (0.0005, 1.125, 3600.0, 40)] == ["0.0005", "1.125", "3600", "40"]
    assert [share(part, 300) for part in (0, 1, 3, 299, 300)] == ["0%", "<1%", "1%", "100%", "100%"]
    assert shortened("abcdefgh", 5) == "ab…gh"
    assert shortened("abcde", 5) == "abcde"
