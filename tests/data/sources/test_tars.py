"""WebDataset tars: members are found without reading all, and damage costs its own."""

import io
import tarfile
from pathlib import Path

import pytest
from discovered import reasons, texts, write_tar

from data.sources.discovery import discover
from data.storage import as_file
from video_dit.config import DataConfig

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

    monkeypatch.setattr("data.sources.tars.open_place", lambda location: Counting(location))
    assert len(discover(tmp_path, DataConfig())[0]) == 4
    assert read < 10_000
