"""Sources behind a URL are found and read as folders are."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from discovered import reasons, texts, write_tar

from data import storage
from data.probe import VideoError
from data.sources.discovery import discover
from data.storage import as_file
from video_dit.config import DataConfig
from video_dit.errors import UserError


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/", recursive=True)


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
    memory.pipe(f"/{folder}v/deep/er/b.mp4", b"fine")
    names = ["v/a.mp4", "v", "v/deep", "../secret.mp4", "/etc/passwd", "memory://elsewhere/secret.mp4", "gone.mp4"]
    names.append(f"memory://{folder}v/a.mp4")
    rows = "".join(json.dumps({"path": name, "caption": "x"}) + "\n" for name in names)
    memory.pipe(f"/{folder}manifest.jsonl", rows.encode())
    videos, dropped = discover(f"memory://{folder}manifest.jsonl", DataConfig())
    assert [video.id for video in videos] == ["v/a.mp4"]
    found = reasons(dropped)
    assert found.pop("v") == found.pop("v/deep") == "is a folder, not a file"
    assert found.pop("gone.mp4") == "no such file"
    assert found.pop("v/a.mp4") == "listed twice"
    assert all(reason.startswith("is outside the source") for reason in found.values())
    assert len(found) == 3
    assert len(discover(f"memory://{folder}manifest.jsonl", DataConfig(allow_outside=True))[0]) == 2


def test_names_that_are_not_there_cost_one_look_at_all_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caption that a video does not have is asked for."""

    class Listing(dict[str, object]):
        looks = 0

        def __iter__(self) -> Iterator[str]:
            self.looks += 1
            return super().__iter__()

    files, listing = storage.RemoteStorage("memory://b", allow_outside=False), Listing({"v/0.mp4": {}, "v/1.mp4": {}})
    monkeypatch.setattr(files, "_files", listing)
    for number in range(5):
        with pytest.raises(storage.MissingError, match="no such file"):
            files.place(f"v/{number}.txt")
    assert listing.looks == 1


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


def test_errors_of_the_network_cost_their_video(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the libraries behind fsspec are mostly no OSErrors."""

    class ConnectionLostError(Exception):
        pass

    def fails(*_: object) -> None:
        raise ConnectionLostError("the server has gone")

    memory.pipe("/b/a.mp4", b"12345")
    ((video,), _) = discover("memory://b", DataConfig())
    monkeypatch.setattr(storage, "remote_errors", lambda: (OSError, ConnectionLostError))
    monkeypatch.setattr(storage, "open_place", fails)
    with pytest.raises(VideoError, match="cannot be opened: the server has gone"), as_file(video.place):
        pass
