import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from data.sources.discovery import Dropped, Video, discover
from video_dit.config import DataConfig
from video_dit.errors import UserError


def caption(video: Video) -> str | None:
    """The only one, if there is one."""
    (text, _), *others = video.captions or ((None, 1.0),)
    assert not others
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files that look like videos (nothing here opens them), one with a sidecar caption."""
    for name in ("b.mp4", "a/c.MOV", "a/d.webm", "a/notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "a/d.txt").write_text("  a dog runs \n")
    return tmp_path


def test_a_folder_is_searched_at_all_depths_in_the_order_of_ids(folder: Path) -> None:
    videos, dropped = discover(folder, DataConfig())
    assert [(video.id, caption(video)) for video in videos] == [
        ("a/c.MOV", None), ("a/d.webm", "a dog runs"), ("b.mp4", None)
    ]  # fmt: skip
    assert dropped == []


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("name_the_folder", [True, False])
def test_manifests_of_each_kind_say_the_same(folder: Path, suffix: str, name_the_folder: bool) -> None:
    rows = [
        {"path": "b.mp4", "caption": "a cat, asleep", "split": "train"},
        {"path": "a/d.webm", "caption": "", "split": "train"},
        {"path": "a/c.MOV", "caption": "a fish", "split": "test"},
        {"path": "gone.mp4", "caption": "nothing", "split": "train"},
        {"path": "b.mp4", "caption": "again", "split": "train"},
    ]
    manifest = folder / f"manifest{suffix}"
    if suffix == ".jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".csv":
        quoted = ("path,caption,split", *(f'{r["path"]},"{r["caption"]}",{r["split"]}' for r in rows))
        manifest.write_text("\n".join(quoted) + "\n")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), manifest)

    videos, dropped = discover(folder if name_the_folder else manifest, DataConfig())
    assert [(video.id, caption(video)) for video in videos] == [("a/d.webm", "a dog runs"), ("b.mp4", "a cat, asleep")]
    assert dropped == [
        Dropped("a/c.MOV", "split is 'test', not 'train'"),
        Dropped("gone.mp4", "no such file"),
        Dropped("b.mp4", "listed twice"),
    ]


def test_columns_can_be_named(folder: Path) -> None:
    manifest = folder / "list.jsonl"
    manifest.write_text('{"file": "b.mp4", "text": "hello"}\n')
    videos, _ = discover(manifest, DataConfig(path_column="file", caption_columns={"text": 1.0}))
    assert [(video.id, caption(video)) for video in videos] == [("b.mp4", "hello")]
    with pytest.raises(UserError, match=r"list.jsonl, row 1: no column 'path', only 'file', 'text'.*data.path_column"):
        discover(manifest, DataConfig())


def test_sources_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        discover(tmp_path / "nowhere", DataConfig())
    with pytest.raises(UserError, match="holds no video: files ending in"):
        discover(tmp_path, DataConfig())
    (tmp_path / "broken.jsonl").write_text("{not json\n")
    with pytest.raises(UserError, match=r"broken.jsonl, row 1: is not JSON"):
        discover(tmp_path / "broken.jsonl", DataConfig())
    (tmp_path / "clip.zip").touch()
    with pytest.raises(UserError, match="neither a folder nor a manifest"):
        discover(tmp_path / "clip.zip", DataConfig())


def test_rows_that_name_no_file_are_reported_and_captions_are_one_line(folder: Path) -> None:
    manifest = folder / "list.jsonl"
    manifest.write_text(
        '{"path": null}\n{"path": "b.mp4", "caption": "two\\n lines"}\n{"path": "a/c.MOV", "caption": 7}\n'
    )
    videos, dropped = discover(manifest, DataConfig())
    assert [(video.id, caption(video)) for video in videos] == [("a/c.MOV", None), ("b.mp4", "two lines")]
    assert dropped == [Dropped("row 1", "path is None, not the name of a file")]
    manifest.write_text("[1, 2]\n")
    with pytest.raises(UserError, match=r"list.jsonl, row 1: expected an object with columns, not \[1, 2\]"):
        discover(manifest, DataConfig())


def test_a_csv_from_a_spreadsheet_is_read(folder: Path) -> None:
    (folder / "list.csv").write_text("path,caption\nb.mp4,hello\n", encoding="utf-8-sig")
    assert [caption(video) for video in discover(folder / "list.csv", DataConfig())[0]] == ["hello"]
