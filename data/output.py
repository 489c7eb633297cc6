"""Folders that results are written to, on this machine or behind a URL; a file in them is whole or not there."""

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from data.storage import is_url, open_url, remote_errors
from video_dit.errors import UserError

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp\Z")
"""What ends the name of a file that `LocalOutput` is writing; others may have names of their own that end in .tmp."""


class OutputFolder(Protocol):
    """Names are relative to the folder, with forward slashes. It can be sent to other processes."""

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""
        ...

    def write(self, name: str, content: bytes | memoryview, durable: bool = True) -> None:
        """Replaces the file: a reader, or a crash, sees the old content or the new and nothing between.

        Args:
            name: of the file.
            content: all of it.
            durable: also if the machine goes down, from the moment that this returns; without, that is left to the
                system, which is faster.

        Raises:
            UserError: it cannot be written.
        """
        ...

    def note(self, name: str) -> "Note":
        """A small file that is written often."""
        ...

    def size(self, name: str) -> int | None:
        """Of a file, in bytes; None if there is none."""
        ...

    def delete(self, name: str) -> None:
        """If it is there."""
        ...

    def sizes(self) -> dict[str, int]:
        """Of the files directly in the folder, by their names; without those that somebody is writing."""
        ...

    def clean(self) -> None:
        """Removes what a process that was killed was writing; nobody else may be writing."""
        ...


def output_folder(location: str) -> OutputFolder:
    """
    Args:
        location: a path, or a URL that fsspec writes.

    Raises:
        UserError: nothing is installed that reads such URLs.
    """
    return RemoteOutput(location) if is_url(location) else LocalOutput(Path(location))


def _unwritten(name: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"{name} cannot be written ({reason}): make room or give the right to write there, and run "
        "the same command again, which goes on where it was, or name another --out"
    )


class Note(Protocol):
    """A file whose content is replaced quickly. It outlives a crash of the process, but not of the machine.

    What is read of it may end with spaces.
    """

    def write(self, content: bytes) -> None:
        """
        Raises:
            UserError: it cannot be written.
        """
        ...

    def delete(self) -> None: ...


class LocalNote:
    """Written in place, in one call of the system: a thousandth of the time that a new file takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.fdopen(_open_new(path, os.O_RDWR), "r+b", buffering=0)
        except OSError as error:
            raise _unwritten(str(path), error) from error
        self._size = os.fstat(self._file.fileno()).st_size

    def write(self, content: bytes) -> None:
        self._size = max(self._size, len(content))
        try:
            os.pwrite(self._file.fileno(), content.ljust(self._size), 0)
        except OSError as error:
            raise _unwritten(str(self._path), error) from error

    def delete(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _open_new(path: Path, access: int) -> int:
    """A descriptor of the file, which is made where it is not there, and its folders too."""
    try:
        return os.open(path, access | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, access | os.O_CREAT | os.O_CLOEXEC, 0o666)


class LocalOutput:
    """A folder of this machine, or one that all machines have mounted; processes have working folders of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def note(self, name: str) -> Note:
        return LocalNote(self.path / name)

    def write(self, name: str, content: bytes | memoryview, durable: bool = True) -> None:
        path = self.path / name
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(_open_new(temporary, os.O_WRONLY), "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise _unwritten(str(path), error) from error

    def size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        if not self.path.is_dir():
            return {}
        files = (p for p in self.path.iterdir() if p.is_file() and not _UNFINISHED.search(p.name))
        return {path.name: path.stat().st_size for path in files}

    def clean(self) -> None:
        for path in self.path.rglob("*.tmp"):
            if _UNFINISHED.search(path.name) and path.is_file():
                path.unlink(missing_ok=True)


class RemoteOutput:
    """A folder behind fsspec. Object stores show an object when all of it is there, so that no renaming is needed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def _open(self, name: str) -> tuple[Any, str]:
        return open_url(f"{self._url}/{name}")

    def read(self, name: str) -> bytes | None:
        fs, path = self._open(name)
        try:
            return fs.cat_file(path)  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except remote_errors() as error:
            raise UserError(f"{self._url}/{name} cannot be read: {error}") from error

    def note(self, name: str) -> Note:
        return RemoteNote(self, name)

    def write(self, name: str, content: bytes | memoryview, durable: bool = True) -> None:  # noqa: ARG002
        fs, path = self._open(name)
        try:
            fs.pipe_file(path, bytes(content))
        except remote_errors() as error:
            raise _unwritten(f"{self._url}/{name}", error) from error

    def size(self, name: str) -> int | None:
        fs, path = self._open(name)
        fs.invalidate_cache()
        try:
            return int(fs.size(path))
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        fs, path = self._open(name)
        if fs.exists(path):
            fs.rm_file(path)

    def sizes(self) -> dict[str, int]:
        fs, path = open_url(self._url)
        fs.invalidate_cache()
        if not fs.exists(path):
            return {}
        files = (info for info in fs.ls(path, detail=True) if info["type"] == "file")
        return {info["name"].rpartition("/")[2]: int(info["size"]) for info in files}

    def clean(self) -> None:
        """Nothing: what was not finished is not there."""


class RemoteNote:
    """Written as any other file."""

    def __init__(self, folder: RemoteOutput, name: str) -> None:
        self._folder, self._name = folder, name

    def write(self, content: bytes) -> None:
        self._folder.write(self._name, content)

    def delete(self) -> None:
        self._folder.delete(self._name)
