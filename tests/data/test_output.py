import json
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from data.output import LocalOutput, OutputFolder, output_folder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutputFolder]:
    if request.param == "local":
        yield output_folder(str(tmp_path / "out"))
    else:
        yield output_folder("memory://bucket/out")
        fsspec.filesystem("memory").rm("/", recursive=True)


def test_files_are_written_read_listed_and_deleted(folder: OutputFolder) -> None:
    assert (folder.sizes(), folder.read("a"), folder.size("a")) == ({}, None, None)
    folder.write("b", b"first")
    folder.write("a", b"one")
    folder.write("deep/er/c", b"inside")
    folder.write("b", b"second")
    assert (folder.sizes(), folder.read("b"), folder.read("deep/er/c")) == ({"a": 3, "b": 6}, b"second", b"inside")
    assert folder.size("deep/er/c") == 6
    folder.delete("a")
    folder.delete("a")
    assert (folder.sizes(), folder.size("a")) == ({"b": 6}, None)


def test_a_path_is_that_of_who_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have working folders of their own."""
    monkeypatch.chdir(tmp_path)
    folder = output_folder("out")
    (tmp_path / "of_a_worker").mkdir()
    monkeypatch.chdir("of_a_worker")
    folder.write("a", b"one")
    assert (tmp_path / "out/a").read_bytes() == b"one"


def test_a_crash_while_writing_leaves_the_old_file_and_rests_that_are_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalOutput(tmp_path)
    folder.write("deep/a", b"old")
    folder.write("deep/of_a_user.tmp", b"notes")
    (tmp_path / "deep" / f"folder.{'0' * 32}.tmp").mkdir()

    class CrashError(Exception): ...

    def crash(_: int) -> None:
        raise CrashError

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(CrashError):
        folder.write("deep/a", b"new")
    assert folder.read("deep/a") == b"old"
    assert len(list((tmp_path / "deep").iterdir())) == 4
    assert LocalOutput(tmp_path / "deep").sizes() == {"a": 3, "of_a_user.tmp": 5}
    folder.clean()
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"a", "of_a_user.tmp", f"folder.{'0' * 32}.tmp"}


def test_a_note_is_replaced_as_a_whole_and_outlives_who_wrote_it(folder: OutputFolder) -> None:
    note = folder.note("notes/a")
    note.write(b'{"long": "content"}')
    note.write(b"{}")
    assert json.loads(folder.read("notes/a") or b"") == {}
    again = folder.note("notes/a")
    assert json.loads(folder.read("notes/a") or b"") == {}
    again.write(b"[1]")
    assert json.loads(folder.read("notes/a") or b"") == [1]
    again.delete()
    assert folder.size("notes/a") is None
