"""Sources as they really are: each bad input gives a reason, and nothing else is lost."""

import codecs
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from discovered import ODD_NAMES, reasons, texts

from data.sources.captions import CLEANED, NOT_JSON, TOO_LONG, UNREADABLE, clean
from data.sources.discovery import Dropped, discover
from data.storage import as_file
from video_dit.config import ConfigError, DataConfig, load_config
from video_dit.errors import UserError

# Paths


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A source with ok.mp4, beside a secret that it should not reach."""
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    source = tmp_path / "source"
    source.mkdir()
    (source / "ok.mp4").write_bytes(b"fine")
    return source


@pytest.mark.parametrize("way", ["..", "absolute", "link", "linked folder", "url"])
def test_a_manifest_cannot_leave_its_folder_unless_allowed(inside: Path, way: str) -> None:
    (inside / "link.mp4").symlink_to("../secret.mp4")
    (inside / "up").symlink_to("..")
    secret = inside.parent / "secret.mp4"
    name = {
        "..": "a/../../secret.mp4",
        "absolute": str(secret),
        "link": "link.mp4",
        "linked folder": "up/secret.mp4",
        "url": f"file://{secret}",
    }[way]
    (inside / "a").mkdir()
    (inside / "list.jsonl").write_text("".join(json.dumps({"path": path}) + "\n" for path in (name, "ok.mp4")))
    videos, dropped = discover(inside / "list.jsonl", DataConfig())
    assert [video.id for video in videos] == ["ok.mp4"]
    assert [entry.reason for entry in dropped] == ["is outside the source, which data.allow_outside = true would allow"]
    videos, dropped = discover(inside / "list.jsonl", DataConfig(allow_outside=True))
    assert (len(videos), dropped) == (2, [])
    (outside,) = (video for video in videos if video.id != "ok.mp4")
    with as_file(outside.place) as path:
        assert path.read_bytes() == b"secret"


def test_a_link_within_the_source_is_followed_and_one_out_of_a_folder_is_not(inside: Path) -> None:
    (inside / "again.mp4").symlink_to("ok.mp4")
    (inside / "out.mp4").symlink_to("../secret.mp4")
    videos, dropped = discover(inside, DataConfig())
    assert [video.id for video in videos] == ["again.mp4", "ok.mp4"]
    assert list(reasons(dropped)) == ["out.mp4"]


def test_a_source_that_is_itself_a_link_is_the_folder_it_leads_to(inside: Path) -> None:
    (inside.parent / "link").symlink_to(inside)
    videos, dropped = discover(inside.parent / "link", DataConfig())
    assert ([video.id for video in videos], dropped) == (["ok.mp4"], [])


def test_one_file_under_three_names_is_listed_once(inside: Path) -> None:
    rows = ["ok.mp4", "./ok.mp4", "a/../ok.mp4", str(inside / "ok.mp4")]
    (inside / "a").mkdir()
    (inside / "list.jsonl").write_text("".join(json.dumps({"path": row}) + "\n" for row in rows))
    videos, dropped = discover(inside / "list.jsonl", DataConfig())
    assert [video.id for video in videos] == ["ok.mp4"]
    assert dropped == [Dropped("ok.mp4", "listed twice")] * 3


def test_what_is_no_file_is_named_in_a_folder_and_in_a_manifest(inside: Path) -> None:
    (inside / "folder.mp4").mkdir()
    (inside / "folder.mp4/deep.mp4").touch()
    (inside / "broken.mp4").symlink_to("nowhere.mp4")
    (inside / "linked").symlink_to("folder.mp4")
    os.mkfifo(inside / "pipe.mp4")
    expected = {
        "folder.mp4": "is a folder, not a file",
        "broken.mp4": "is a link to a file that does not exist",
        "pipe.mp4": "is not a regular file",
    }
    videos, dropped = discover(inside, DataConfig())
    assert [video.id for video in videos] == ["folder.mp4/deep.mp4", "ok.mp4"]
    assert reasons(dropped) == {**expected, "linked": "is a link to a folder, which is not followed"}

    names = [*expected, "ok.mp4", "zero\x00byte.mp4", "gone.mp4", ""]
    (inside / "list.jsonl").write_text("".join(json.dumps({"path": name}) + "\n" for name in names))
    videos, dropped = discover(inside / "list.jsonl", DataConfig())
    assert [video.id for video in videos] == ["ok.mp4"]
    assert reasons(dropped) == {
        **expected,
        "zero\x00byte.mp4": "cannot be read: embedded null byte",
        "gone.mp4": "no such file",
        "row 7": "path is '', not the name of a file",
    }


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder, seen without root's right to read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    for path in folder.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_what_may_not_be_read_is_named(as_nobody: Path) -> None:
    folder, euid = as_nobody, os.geteuid()
    os.seteuid(os.getuid())
    for name in ("ok.mp4", "locked.tar", "locked/x.mp4", "ok.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for name in ("locked.tar", "locked", "ok.txt"):
        (folder / name).chmod(0)
    os.seteuid(euid)
    videos, dropped = discover(folder, DataConfig())
    assert [(video.id, video.notes) for video in videos] == [("ok.mp4", (UNREADABLE,))]
    assert reasons(dropped) == {
        "locked.tar": "cannot be read: Permission denied",
        "locked": "cannot be listed: Permission denied",
    }
    manifest = [{"path": "locked/x.mp4"}, {"path": "ok.mp4"}]
    os.seteuid(os.getuid())
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in manifest))
    os.seteuid(euid)
    videos, dropped = discover(folder / "list.jsonl", DataConfig())
    assert reasons(dropped) == {"locked/x.mp4": "cannot be read: Permission denied"}


@pytest.mark.parametrize("suffix", ["", ".jsonl", ".csv", ".parquet"])
def test_names_with_anything_in_them_are_found(tmp_path: Path, suffix: str) -> None:
    for name in ODD_NAMES:
        (tmp_path / name).write_text(name)
    rows = [{"path": name} for name in ODD_NAMES]
    source = tmp_path / f"list{suffix}" if suffix else tmp_path
    if suffix == ".jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".csv":
        quoted = ('"' + name.replace('"', '""') + '"' for name in ("path", *ODD_NAMES))
        source.write_text("\r\n".join(quoted) + "\r\n", newline="")
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), source)
    videos, dropped = discover(source, DataConfig())
    assert ([video.id for video in videos], dropped) == (sorted(ODD_NAMES), [])
    for video in videos:
        with as_file(video.place) as path:
            assert path.read_text() == video.id


@pytest.mark.parametrize("suffix", ["", ".jsonl", ".csv"])
def test_a_name_that_is_no_utf8_gets_an_id_that_is(tmp_path: Path, suffix: str) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"coffee")
    source = tmp_path
    if suffix:
        source = tmp_path / f"list{suffix}"
        source.write_bytes(b"path\ncaf\xe9.mp4\n" if suffix == ".csv" else b'{"path": "caf\xe9.mp4"}\n')
    ((video,), dropped) = discover(source, DataConfig())
    assert (video.id, dropped) == ("caf\\udce9.mp4", [])
    video.id.encode("utf-8")
    with as_file(video.place) as path:
        assert path.read_bytes() == b"coffee"


# Captions


@pytest.mark.parametrize(
    ("text", "cleaned", "changed"),
    [
        ("  two\n lines\t", "two lines", False),
        ("a\x00b\x1b[31m c\x7f", "ab[31m c", True),
        ("half \ud83d of a pair", "half of a pair", True),
        ("family \U0001f468‍\U0001f469‍\U0001f467 naïve 猫", "family \U0001f468‍\U0001f469‍\U0001f467 naïve 猫", False),
        ("\x00\n", "", True),
    ],
)
def test_captions_are_one_line_that_can_be_written(text: str, cleaned: str, changed: bool) -> None:
    assert clean(text) == (cleaned, changed)


def test_captions_beside_a_video(tmp_path: Path) -> None:
    """A .json has the columns of a manifest; a .txt speaks where it says nothing."""
    beside = {
        "both.json": b'{"caption": "from json"}', "both.txt": b"from txt",
        "other.json": b'{"title": "x"}', "other.txt": "\ufefffrom txt\r\n".encode(),
        "broken.json": b"{", "broken.txt": b"from txt",
        "list.json": b'["no object"]',
        "latin.txt": b"caf\xe9 au lait",
        "empty.txt": b" \n",
        "elsewhere.json": b'{"caption": "x", "split": "test"}',
    }  # fmt: skip
    for name, content in beside.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).with_suffix(".mp4").touch()
    (tmp_path / "folder.mp4").touch()
    (tmp_path / "folder.txt").mkdir()
    videos, dropped = discover(tmp_path, DataConfig())
    assert {video.id.removesuffix(".mp4"): ([c.text for c in video.captions], video.notes) for video in videos} == {
        "both": (["from json"], ()),
        "other": (["from txt"], ()),
        "broken": (["from txt"], (NOT_JSON,)),
        "list": ([], (NOT_JSON,)),
        "latin": (["caf au lait"], (CLEANED,)),
        "empty": ([], ()),
        "folder": ([], (UNREADABLE,)),
    }
    assert reasons(dropped) == {"elsewhere.mp4": "split is 'test', not 'train'"}


def test_a_clip_has_the_captions_that_it_has_with_their_weights(tmp_path: Path) -> None:
    rows = [
        {"path": "a.mp4", "original": "short", "synthetic": "a long one"},
        {"path": "b.mp4", "original": "", "synthetic": "alone"},
        {"path": "c.mp4", "original": "x" * 21, "synthetic": "kept"},
        {"path": "d.mp4", "original": None},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (tmp_path / str(row["path"])).touch()
    (tmp_path / "d.txt").write_text("from txt")
    overrides = ["data.caption_columns={synthetic = 3, original = 1}", "data.max_caption_length=20"]
    videos, _ = discover(tmp_path / "list.jsonl", load_config(None, overrides).data)
    assert texts(videos) == {
        "a.mp4": [("a long one", 3.0), ("short", 1.0)],
        "b.mp4": [("alone", 3.0)],
        "c.mp4": [("kept", 3.0)],
        "d.mp4": [("from txt", 3.0)],
    }
    assert [video.notes for video in videos] == [(), (), (TOO_LONG,), ()]


# Manifests


def test_bad_lines_cost_themselves_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    fine, other = b'{"path": "a.mp4", "caption": "fine"}', b'{"file": "a.mp4"}'
    lines = [fine, b"{bad", b"[1]", other, b"", b"[" * 5000, b"\xff\xfe", b'{"path": "\\ud83d.mp4"}']
    (tmp_path / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
    videos, dropped = discover(tmp_path / "list.jsonl", DataConfig())
    assert texts(videos) == {"a.mp4": [("fine", 1.0)]}
    assert [entry.id for entry in dropped] == ["row 2", "row 3", "row 4", "row 6", "row 7", "\\ud83d.mp4"]
    assert dropped[0].reason.startswith("is not JSON (Expecting property name")
    assert dropped[1].reason == "expected an object with columns, not [1]"
    assert dropped[2].reason.startswith("no column 'path', only 'file'")


def test_a_csv_row_of_another_length_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    (tmp_path / "list.csv").write_text("path,caption\na.mp4,no, quotes\nb.mp4,trailing comma,\nb.mp4\n" + "x" * 200_000)
    videos, dropped = discover(tmp_path / "list.csv", DataConfig())
    assert texts(videos) == {"b.mp4": [("trailing comma", 1.0)]}
    assert reasons(dropped) == {
        "row 1": "has more fields than there are columns: a text with a comma wants quotes around it",
        "b.mp4": "listed twice",
        "row 4": "is not CSV (field larger than field limit (131072))",
    }


@pytest.mark.parametrize("bom", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_manifest_in_utf16_is_read(tmp_path: Path, bom: bytes) -> None:
    (tmp_path / "é.mp4").touch()
    encoding = "utf-16-le" if bom == codecs.BOM_UTF16_LE else "utf-16-be"
    (tmp_path / "list.csv").write_bytes(bom + "path,caption\r\né.mp4,hello\r\n".encode(encoding))
    assert texts(discover(tmp_path / "list.csv", DataConfig())[0]) == {"é.mp4": [("hello", 1.0)]}
    (tmp_path / "list.csv").write_bytes(bom + b"odd")
    with pytest.raises(UserError, match=r"list.csv is not a .csv manifest"):
        discover(tmp_path / "list.csv", DataConfig())


def test_a_parquet_manifest_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"list.parquet is not a .parquet manifest"):
        discover(tmp_path / "list.parquet", DataConfig())


def test_names_made_of_columns_and_rows_that_hold_lists(tmp_path: Path) -> None:
    for name in ("x-0.mp4", "x-1.mp4", "y-0.mp4"):
        (tmp_path / name).touch()
    rows = [
        {"id": "x", "caption": "['first', \"it's\"]", "score": "[1, 2]"},
        {"id": "y", "caption": ["as json"], "score": [3]},
        {"id": "z", "caption": "['a', 'b']", "score": "[1]"},
        {"id": "z", "caption": "no list", "score": "[1]"},
        {"id": None, "caption": "['a']", "score": "[1]"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path_template="{id}-{clip}.mp4", list_columns=("caption", "score"))
    videos, dropped = discover(tmp_path / "list.jsonl", config)
    assert texts(videos) == {"x-0.mp4": [("first", 1.0)], "x-1.mp4": [("it's", 1.0)], "y-0.mp4": [("as json", 1.0)]}
    assert reasons(dropped) == {
        "row 3": "lists differ in length: caption has 2, score has 1",
        "row 4": "caption is no list",
        "row 5": "id is None, and data.path_template needs it",
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path_template='{id'", "data.path_template is '{id'"),
        ("data.path_template='x.mp4'", "must name columns"),
        ("data.list_columns=['caption']", "whose files data.path_template must name"),
        ("data.caption_columns={}", "name a column with its weight"),
        ("data.caption_columns={a = 0}", "greater than 0"),
    ],
)
def test_columns_that_make_no_sense_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])
