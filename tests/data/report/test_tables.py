import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from video_files import FILES

from data.dataset_info import bucket_name
from data.probe import probe
from data.report.tables import (
    VIDEO_SCHEMA,
    build_table,
    clip_schema,
    clips_per_bucket,
    probed_columns,
    scorers_of,
    table_bytes,
)
from video_dit.config import Config
from video_dit.errors import UserError


def test_columns_are_those_that_are_promised() -> None:
    videos = """id clips rule reason score threshold notes format codec height width rotation mirrored
        sample_aspect_ratio frame_rate variable_rate start seconds frames stream streams pixel_format bit_depth
        color_range hdr"""
    clips = """id video shot start seconds brightness change bars motion sharpness difference duplicate_of aesthetic
        captions weights frames height width shard rule reason score threshold"""
    assert VIDEO_SCHEMA.names == videos.split()
    assert clip_schema(["aesthetic"]).names == clips.split()


def test_a_table_comes_back_as_it_was_and_in_the_same_bytes() -> None:
    rows = [
        {"id": "a#0", "motion": 0.1, "captions": ["one", "two"], "weights": [0.5, 0.5], "aesthetic": 4.0},
        {"id": "👩\n#1", "duplicate_of": "a#0", "captions": []},
    ]
    table = build_table(rows, clip_schema(["aesthetic"]))
    assert table_bytes(table) == table_bytes(build_table(rows, clip_schema(["aesthetic"])))
    assert pq.read_table(io.BytesIO(table_bytes(table))).equals(table)
    assert scorers_of(table) == ["aesthetic"]
    assert table["motion"].to_pylist() == [0.1, None]


def test_a_row_cannot_have_a_column_that_the_table_has_not() -> None:
    with pytest.raises(AssertionError, match="colour"):
        build_table([{"id": "a", "colour": "red"}], VIDEO_SCHEMA)


def test_a_scorer_cannot_take_the_name_of_a_column() -> None:
    with pytest.raises(UserError, match=r"'motion', which is a column of clips\.parquet"):
        clip_schema(["aesthetic", "motion"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("turned_90", {"height": 64, "width": 48, "rotation": 90, "mirrored": False, "codec": "h264"}),
        ("wide_pixels", {"height": 48, "width": 85, "sample_aspect_ratio": 4 / 3, "bit_depth": 8}),
        (
            "variable_rate",
            {"variable_rate": True, "frames": 48, "pixel_format": "yuv420p", "streams": ["video (h264)"]},
        ),
        ("late_start", {"start": 5.0, "seconds": 2.0, "frame_rate": 24.0, "stream": 0}),
    ],
)
def test_columns_of_the_probe(tmp_path: Path, kind: str, expected: dict[str, object]) -> None:
    columns = probed_columns(probe(FILES[kind](tmp_path), Config().data.limits))
    assert columns.keys() == set(VIDEO_SCHEMA.names[7:])
    for name, value in expected.items():
        assert columns[name] == (pytest.approx(value) if isinstance(value, float) else value)
    assert build_table([{"id": "a", **columns}], VIDEO_SCHEMA).to_pylist()[0].items() >= columns.items()


def test_buckets_are_counted_among_clips_that_were_kept() -> None:
    shapes = [(8, 32, 32)] * 2 + [(16, 32, 32)] * 3 + [(4, 8, 8)] * 2
    rows = [dict(zip(("frames", "height", "width"), shape, strict=True)) for shape in shapes] + [{"rule": "unreadable"}]
    counts = clips_per_bucket(build_table(rows, clip_schema([])))
    assert list(counts.items()) == [((16, 32, 32), 3), ((4, 8, 8), 2), ((8, 32, 32), 2)]
    assert bucket_name((16, 32, 48)) == "16x32x48"


def test_parquet_says_nothing_of_when_it_was_written() -> None:
    content = table_bytes(build_table([{"id": "a"}], VIDEO_SCHEMA))
    assert set(pq.read_metadata(io.BytesIO(content)).metadata or {}) <= {b"ARROW:schema"}
