"""All kinds of bad input at once: each has a row that says why, and their neighbours give what they give alone."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bad_files import BAD_FILES, latin_metadata, pipe
from discovered import ODD_NAMES
from messy_videos import FPS, moving
from preprocessed import preprocess_here
from video_files import FILES, write_video

from data.engine import Engine, InProcess, local_engine
from data.preprocessing import NOT_TAKEN, UNREADABLE
from data.sources.captions import CLEANED, NOT_JSON
from data.video import write_mp4
from video_dit.config import load_config

SETTINGS = ("data.fps=8", "data.num_frames=4", "text_encoder.max_length=4")
Expected = dict[str, tuple[str, str]]
"""Of each input that gives no clip, by id: the rule, and a pattern of the reason."""


def add_good(folder: Path) -> Path:
    """Files that look odd and are fine, or of which the beginning is."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate((*ODD_NAMES, os.fsdecode(b"caf\xe9.mp4"), "plain.mp4", "noted.mp4")):
        write_mp4(folder / "made.mp4", moving(number, 8), FPS)
        (folder / "made.mp4").rename(folder / name)
    for name in ("variable_rate", "turned_90", "edit_list", "two_streams", "late_start", "gif"):
        made = FILES[name](folder)
        made.rename(folder / f"good_{made.name}")
    (folder / "whole.mp4").unlink()  # from which one of them was made
    write_mp4(folder / "cut.mp4", moving(20, 32), FPS)
    content = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    middle = len(content) * 7 // 10
    (folder / "damaged.mp4").write_bytes(content[:middle] + bytes(300) + content[middle + 300 :])
    (folder / "plain.txt").write_bytes(b"a \x1b[31mred\x00 plane")
    (folder / "noted.json").write_text("{no JSON")
    return folder


def add_bad(folder: Path) -> Expected:
    expected = {}
    for kind, (make, reason) in BAD_FILES.items():
        if kind == "nothing":
            continue
        making = folder.parent / "making"
        making.mkdir()
        make(making).rename(folder / f"{kind}.mp4")
        shutil.rmtree(making, ignore_errors=True)
        expected[f"{kind}.mp4"] = (UNREADABLE, reason)
    expected["a folder.mp4"] = (NOT_TAKEN, "is a folder, not a file")
    expected["a broken link.mp4"] = (NOT_TAKEN, "is a link to a file that does not exist")
    pipe(folder)
    expected["pipe.mp4"] = (NOT_TAKEN, "is not a regular file")
    latin_metadata(folder)
    expected["latin.mp4"] = ("data.num_frames", "shorter than a clip")
    write_video(folder / "one.mp4", ticks=[0])
    expected["one.mp4"] = ("data.num_frames", "shorter than a clip")
    write_video(folder / "picture.gif", "gif", ticks=[0], pixel_format="rgb8")
    expected["picture.gif"] = ("data.num_frames|unreadable|no shot", "")
    (folder.parent / "secret.mp4").write_bytes((folder / "plain.mp4").read_bytes())
    (folder / "out.mp4").symlink_to("../secret.mp4")
    expected["out.mp4"] = (NOT_TAKEN, "is outside the source")
    (folder / "text.tar").write_text("no tar")
    expected["text.tar"] = (NOT_TAKEN, "is no tar")
    if os.geteuid() != 0:  # root may read everything
        (folder / "locked.mp4").write_bytes((folder / "plain.mp4").read_bytes())
        (folder / "locked.mp4").chmod(0)
        expected["locked.mp4"] = (UNREADABLE, "permission denied")
    return expected


def add_bad_rows(folder: Path, expected: Expected) -> Expected:
    """A manifest of all files, and of rows that name none."""
    names = [path.relative_to(folder) for path in folder.iterdir() if path.suffix not in (".txt", ".json", ".tar")]
    rows: list[object] = [{"path": os.fsencode(name).decode("utf-8", "surrogateescape")} for name in names]
    bad: list[tuple[object, str]] = [  # a row, and the reason
        ({}, "no column 'path'"), ({"caption": "alone"}, "no column 'path'"),
        ({"path": None}, "not the name of a file"),
        ({"path": ""}, "not the name of a file"), ([1], "expected an object"), (7, "expected an object"),
    ]  # fmt: skip
    found = {name: entry for name, entry in expected.items() if name != "text.tar"}
    found |= {f"row {len(rows) + 1 + index}": (NOT_TAKEN, reason) for index, (_, reason) in enumerate(bad)}
    named = {
        "../secret.mp4": "is outside", "/etc/passwd": "is outside", "file:///etc/passwd": "is outside",
        "gone.mp4": "no such file", "zero\x00byte.mp4": "cannot be read", "plain.mp4": "listed twice",
    }  # fmt: skip
    rows += [row for row, _ in bad] + [{"path": name} for name in named]
    found |= {name: (NOT_TAKEN, reason) for name, reason in named.items() if name != "plain.mp4"}
    lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") for row in rows]
    (folder / "list.jsonl").write_bytes(b"\n".join([*lines, b"", b"{no JSON"]) + b"\n")
    found[f"row {len(rows) + 2}"] = (NOT_TAKEN, "is not JSON")
    return found


@pytest.fixture(
    params=["in this process", pytest.param("by workers", marks=[pytest.mark.slow, pytest.mark.distributed])]
)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "by workers":
        with local_engine(2, 60.0) as engine:
            yield engine
    else:
        yield InProcess()


def test_bad_input_costs_itself_alone(tmp_path: Path, engine: Engine) -> None:
    config = load_config(None, SETTINGS)
    preprocess_here(add_good(tmp_path / "good"), tmp_path / "alone", config, engine=engine)
    source = add_good(tmp_path / "source")
    expected = add_bad(source)
    assert len(expected) >= 20
    preprocess_here(source, tmp_path / "by folder", config, engine=engine)
    check(tmp_path / "by folder", expected, tmp_path / "alone")
    expected = add_bad_rows(source, expected)
    preprocess_here(source / "list.jsonl", tmp_path / "by manifest", config, engine=engine)
    check(tmp_path / "by manifest", expected, tmp_path / "alone")


def check(out: Path, expected: Expected, alone: Path) -> None:
    listed = table(out / "videos.parquet")
    twice = [row for row in listed if row["reason"] == "listed twice"]
    assert [(row["id"], row["clips"]) for row in twice] == [("plain.mp4", 0)] * ("manifest" in out.name)
    rows = {row["id"]: row for row in listed if row not in twice}
    good = {row["id"]: row for row in table(alone / "videos.parquet")}
    without = {name: (row["rule"], row["reason"]) for name, row in rows.items() if row["clips"] == 0}
    assert without.keys() == expected.keys()
    for name, (rule, reason) in without.items():
        assert re.fullmatch(expected[name][0], rule), (name, rule, reason)
        assert re.search(expected[name][1], reason), (name, rule, reason)
    assert {name: row for name, row in rows.items() if row["clips"]} == good
    assert all("damaged" in good[name]["notes"][0] for name in ("cut.mp4", "damaged.mp4"))
    assert good["noted.mp4"]["notes"][0] == NOT_JSON
    assert good["plain.mp4"]["notes"] == [CLEANED]
    assert all(row["clips"] for row in good.values())
    clips, usual = ({row["id"]: {**row, "shard": None} for row in table(o / "clips.parquet")} for o in (out, alone))
    assert clips == usual


def table(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()
