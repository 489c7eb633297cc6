"""Sources as they really are: each bad input gives a reason, and nothing else is lost."""

import codecs
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from data.captions import CLEANED, NOT_JSON, TOO_LONG, UNREADABLE, clean
from data.manifest import Dropped, Video, discover
from data.probe import VideoError
from data.storage import as_file
from video_dit.config import ConfigError, DataConfig, load_config
from video_dit.errors import UserError


def texts(videos: list[Video]) -> dict[str, list[tuple[str, float]]]:
    return {video.id: [tuple(caption) for caption in video.captions] for video in videos}


def reasons(dropped: list[Dropped]) -> dict[str, str]:
    return {entry.id: entry.reason for entry in dropped}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/", recursive=True)


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


ODD_NAMES = ("with space.mp4", 'it\'s "quoted".mp4', "two\nlines.mp4", "rocket \U0001f680.mp4", "-dash.mp4", "a:b.mp4")


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


# Tars


MEMBERS = {
    "0001.mp4": b"first", "0001.json": b'{"caption": "one"}',
    "0003.txt": b"three", "0003.mp4": b"third",
    "0002.mp4": b"second", "0002.cls": b"7",
    "sub/v1.2.mp4": b"dots", "sub/v1.2.txt": b"own", "sub/v1.txt": b"shared",
    "sub/v1.3.mp4": b"more dots",
    "0004.json": b'{"status": "failed"}',
}  # fmt: skip


def test_members_of_a_tar_are_grouped_by_key(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", MEMBERS)
    for source in (tmp_path, tmp_path / "00000.tar"):
        videos, dropped = discover(source, DataConfig())
        assert texts(videos) == {
            "00000.tar/0001.mp4": [("one", 1.0)],
            "00000.tar/0002.mp4": [],
            "00000.tar/0003.mp4": [("three", 1.0)],
            "00000.tar/sub/v1.2.mp4": [("own", 1.0)],
            "00000.tar/sub/v1.3.mp4": [("shared", 1.0)],
        }
        assert reasons(dropped) == {"00000.tar/0004": "has no video among its files in the tar, only .json"}
        for video in videos:
            with as_file(video.place) as path:
                assert path.read_bytes() == MEMBERS[video.id.removeprefix("00000.tar/")]
            assert not path.exists()


def test_members_that_are_no_files_or_come_twice(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.mp4": b"1", "../../escape.mp4": b"2"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        again = tarfile.TarInfo("a.mp4")
        tar.addfile(again)
    videos, dropped = discover(path, DataConfig())
    assert [video.id for video in videos] == ["x.tar/../../escape.mp4", "x.tar/a.mp4"]
    assert reasons(dropped) == {
        "x.tar/link.mp4": "is a link, a device or a sparse file in a tar",
        "x.tar/a.mp4": "listed twice",
    }
    assert sorted(tmp_path.parent.parent.glob("escape.mp4")) == []


@pytest.mark.parametrize("keep", [600, 1024, 1100, 2048, 2560])
def test_a_tar_that_is_cut_short_keeps_what_is_whole(tmp_path: Path, keep: int) -> None:
    """Each member is a block of header and one of content; two blocks of zeros end a tar."""
    path = write_tar(tmp_path / "x.tar", {"a.mp4": b"a" * 512, "b.mp4": b"b" * 512})
    path.write_bytes(path.read_bytes()[:keep])
    videos, dropped = discover(path, DataConfig())
    is_whole = [name for name, end in (("x.tar/a.mp4", 1024), ("x.tar/b.mp4", 2048)) if keep >= end]
    assert [video.id for video in videos] == is_whole
    if keep < 2560:
        assert "x.tar" in reasons(dropped)
    if keep == 600:
        assert reasons(dropped)["x.tar/a.mp4"] == "is cut short, as the tar is"
    assert bool(dropped) == (keep < 2560)


def test_damage_inside_a_tar_and_what_is_no_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.mp4": b"a" * 512, "b.mp4": b"b" * 512})
    content = bytearray(path.read_bytes())
    content[1024:1124] = b"\xff" * 100  # the second header
    path.write_bytes(content)
    (tmp_path / "text.tar").write_text("no tar at all " * 100)
    (tmp_path / "empty.tar").touch()
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as tar:
        tar.add(path, "a.mp4")
    videos, dropped = discover(tmp_path, DataConfig())
    assert [video.id for video in videos] == ["x.tar/a.mp4"]
    assert reasons(dropped)["x.tar"] == "is damaged, or cut short, after 1 files"
    assert all(reasons(dropped)[name].startswith("is no tar: ") for name in ("text.tar", "empty.tar", "zipped.tar"))


def test_a_tar_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "x.tar", {f"{k}.mp4": bytes(1 << 20) for k in range(4)})
    read = 0

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:  # type: ignore[override]
            nonlocal read
            content = super().read(size)
            read += len(content)
            return content

    monkeypatch.setattr("data.tars.open_place", lambda location: Counting(location))
    assert len(discover(tmp_path, DataConfig())[0]) == 4
    assert read < 10_000


# URLs


def test_a_bucket_is_read_as_a_folder_is(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    files = {"a.mp4": b"first", "a.txt": b"one", "deep/b c.mp4": b"second", "deep/notes.md": b""}
    write_tar(tmp_path / "0.tar", {"k.mp4": b"in a tar", "k.txt": b"three"})
    files["0.tar"] = (tmp_path / "0.tar").read_bytes()
    for name, content in files.items():
        memory.pipe(f"/bucket/set/{name}", content)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    videos, dropped = discover("memory://bucket/set", DataConfig())
    assert (texts(videos), dropped) == (texts(discover(tmp_path, DataConfig())[0]), [])
    assert len(videos) == 3
    contents = []
    for video in videos:
        with as_file(video.place) as path:
            contents.append(path.read_bytes())
    assert contents == [b"in a tar", b"first", b"second"]


@pytest.mark.parametrize("folder", ["bucket/set/", "bucket/"])
def test_a_manifest_in_a_bucket_stays_in_its_folder(memory: fsspec.AbstractFileSystem, folder: str) -> None:
    memory.pipe("/elsewhere/secret.mp4", b"secret")
    memory.pipe(f"/{folder}v/a.mp4", b"fine")
    names = ["v/a.mp4", "v", "../secret.mp4", "/etc/passwd", "memory://elsewhere/secret.mp4", "gone.mp4"]
    names.append(f"memory://{folder}v/a.mp4")
    rows = "".join(json.dumps({"path": name, "caption": "x"}) + "\n" for name in names)
    memory.pipe(f"/{folder}manifest.jsonl", rows.encode())
    videos, dropped = discover(f"memory://{folder}manifest.jsonl", DataConfig())
    assert [video.id for video in videos] == ["v/a.mp4"]
    found = reasons(dropped)
    assert found.pop("v") == "is a folder, not a file"
    assert found.pop("gone.mp4") == "no such file"
    assert found.pop("v/a.mp4") == "listed twice"
    assert all(reason.startswith("is outside the source") for reason in found.values())
    assert len(found) == 3
    assert len(discover(f"memory://{folder}manifest.jsonl", DataConfig(allow_outside=True))[0]) == 2


def test_urls_that_nothing_reads_and_manifests_that_are_not_there(memory: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(UserError, match=r"nonsense://a cannot be read.*install the package"):
        discover("nonsense://a", DataConfig())
    with pytest.raises(UserError, match=r"memory://b/gone.csv cannot be read"):
        discover("memory://b/gone.csv", DataConfig())
    with pytest.raises(UserError, match="holds no video"):
        discover("memory://b", DataConfig())


def test_bytes_that_are_gone_when_they_are_wanted_cost_their_video(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/b/a.mp4", b"12345")
    ((video,), _) = discover("memory://b", DataConfig())
    memory.pipe("/b/a.mp4", b"123")
    with pytest.raises(VideoError, match="2 of its 5 bytes are missing"), as_file(video.place):
        pass
    memory.rm("/b/a.mp4")
    with pytest.raises(VideoError, match="cannot be opened"), as_file(video.place):
        pass
