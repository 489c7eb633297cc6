"""Where a source's files are: in a folder of this machine, or behind a URL that fsspec reads (s3://, gs://)."""

import importlib
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import fsspec

from data.probe import VideoError
from video_dit.errors import UserError


class Place(NamedTuple):
    """Bytes that can be opened: a path or a URL, how many bytes, and where they begin, None for a whole file.

    `version` changes when somebody writes the file, where the storage says so.
    """

    location: str
    size: int
    offset: int | None = None
    version: str = ""


class UnusableError(UserError):
    """A file that cannot be used; the message says why."""


class MissingError(UnusableError):
    """There is no such file."""


IS_FOLDER = "is a folder, not a file"


class Storage(Protocol):
    """The files under a root, by their names relative to it, with forward slashes."""

    def names(self) -> Iterator[tuple[str, str | None]]:
        """All files and folders at all depths in a fixed order, each with what hinders it; folders with `IS_FOLDER`."""
        ...

    def id_of(self, name: str) -> str:
        """The same for all ways to name a file, so that it is told when it is named twice."""
        ...

    def place(self, name: str) -> Place:
        """
        Raises:
            UnusableError: there is no such file, or it is none, or it is outside the root and may not be.
        """
        ...


def storage_of(root: str, allow_outside: bool) -> Storage:
    """
    Raises:
        UserError: nothing is installed that reads such URLs.
    """
    return RemoteStorage(root, allow_outside) if is_url(root) else LocalStorage(root, allow_outside)


class LocalStorage:
    """A folder of this machine. Links to files are followed, inside the root; links to folders are not."""

    def __init__(self, root: str, allow_outside: bool) -> None:
        self._root = os.path.abspath(root)
        self._allow_outside = allow_outside

    def names(self) -> Iterator[tuple[str, str | None]]:
        problems: list[OSError] = []
        for folder, subfolders, files in os.walk(self._root, onerror=problems.append):
            subfolders.sort()
            for name in subfolders:
                is_link = os.path.islink(os.path.join(folder, name))
                yield self.id_of(os.path.join(folder, name)), _FOLDER_LINK if is_link else IS_FOLDER
            for name in sorted(files):
                yield self.id_of(os.path.join(folder, name)), None
        for problem in problems:
            yield self.id_of(str(problem.filename)), f"cannot be listed: {problem.strerror}"

    def id_of(self, name: str) -> str:
        if is_url(name):
            return name
        path = os.path.normpath(os.path.join(self._root, name))
        return os.path.relpath(path, self._root) if _is_inside(path, self._root) else os.path.normpath(name)

    def place(self, name: str) -> Place:
        if is_url(name):
            return _place_of_url(name, self._allow_outside)
        try:
            path = os.path.realpath(os.path.join(self._root, name))
            found = os.stat(path)
        except FileNotFoundError as error:
            if os.path.islink(os.path.join(self._root, name)):
                raise UnusableError("is a link to a file that does not exist") from error
            raise MissingError("no such file") from error
        except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
            raise UnusableError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not _is_inside(path, os.path.realpath(self._root)) and not self._allow_outside:
            raise UnusableError(_OUTSIDE)
        if stat.S_ISDIR(found.st_mode):
            raise UnusableError(IS_FOLDER)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableError("is not a regular file")
        return Place(path, found.st_size, version=str(found.st_mtime_ns))


class RemoteStorage:
    """A folder behind fsspec, listed once, as a request for each file would take long."""

    def __init__(self, root: str, allow_outside: bool) -> None:
        self._prefix = root if root.endswith("/") else f"{root}/"
        self._fs, path = open_url(root)
        self._path = path.rstrip("/")
        self._allow_outside = allow_outside

    @cached_property
    def _files(self) -> dict[str, Any]:
        try:
            found = self._fs.find(self._path, detail=True)
        except remote_errors() as error:
            raise UserError(f"{self._prefix} cannot be listed: {error}") from error
        return {name.removeprefix(self._path).lstrip("/"): info for name, info in found.items()}

    @cached_property
    def _folders(self) -> set[str]:
        """All that hold files, at whatever depth: a set, as many names are asked for that are not there."""
        folders: set[str] = set()
        for name in self._files:
            while (name := posixpath.dirname(name)) and name not in folders:
                folders.add(name)
        return folders

    def names(self) -> Iterator[tuple[str, str | None]]:
        return ((name, None) for name in sorted(self._files))

    def id_of(self, name: str) -> str:
        name = name.removeprefix(self._prefix)
        return name if is_url(name) else posixpath.normpath(name)

    def place(self, name: str) -> Place:
        name = self.id_of(name)
        if is_url(name):
            return _place_of_url(name, self._allow_outside)
        if posixpath.isabs(name) or name.split("/")[0] == "..":
            raise UnusableError("is outside the source, where a URL would have to name it")
        if name not in self._files:
            raise (UnusableError(IS_FOLDER) if name in self._folders else MissingError("no such file"))
        return _place_of(self._fs.unstrip_protocol(posixpath.join(self._path, name)), self._files[name])


_FOLDER_LINK = "is a link to a folder, which is not followed"
_OUTSIDE = "is outside the source, which data.allow_outside = true would allow"
_LIBRARY_HINT = "install the package that reads it (s3fs for s3://, gcsfs for gs://)"


def is_url(name: str) -> bool:
    return "://" in name


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UserError: nothing is installed that reads such URLs.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be read ({error}): {_LIBRARY_HINT}") from error
    return fs, path


_LIBRARY_ERRORS = {
    "botocore.exceptions": "BotoCoreError", "google.auth.exceptions": "GoogleAuthError", "aiohttp": "ClientError"
}  # fmt: skip
"""What the libraries behind fsspec raise that is no OSError: of servers, credentials and the network."""


@cache
def remote_errors() -> tuple[type[Exception], ...]:
    """What can go wrong with files behind URLs, by the libraries that are installed."""
    found: list[type[Exception]] = [OSError]
    for module, name in _LIBRARY_ERRORS.items():
        with suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def open_place(location: str) -> BinaryIO:
    """A path or a URL, for reading bytes."""
    if not is_url(location):
        return open(location, "rb")
    fs, path = open_url(location)
    return fs.open(path, "rb")  # type: ignore[no-any-return]


def _is_inside(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


@contextmanager
def as_file(place: Place) -> Iterator[Path]:
    """The bytes as a file that decoders can open: itself where it is one, else a temporary copy.

    Raises:
        VideoError: they cannot be copied.
    """
    is_file = place.offset is None and not is_url(place.location)
    if is_file and place.location.isprintable():
        yield Path(place.location)
        return
    with tempfile.TemporaryDirectory(prefix="video-dit-") as folder:
        path = Path(folder) / "video"
        try:
            if is_file:
                path.symlink_to(place.location)  # decord does not open names that are not UTF-8
            else:
                _copy(place, path)
        except remote_errors() as error:
            raise VideoError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        yield path


def _copy(place: Place, path: Path) -> None:
    with open_place(place.location) as source, path.open("wb") as target:
        source.seek(place.offset or 0)
        left = place.size
        while left and (chunk := source.read(min(left, 1 << 20))):
            target.write(chunk)
            left -= len(chunk)
    if left:
        raise VideoError(f"cannot be opened: {left:,} of its {place.size:,} bytes are missing")


def _place_of_url(url: str, allowed: bool) -> Place:
    if not allowed:
        raise UnusableError(_OUTSIDE)
    try:
        fs, path = open_url(url)
        info = fs.info(path)
    except (*remote_errors(), UserError) as error:
        raise UnusableError(f"cannot be read: {error}") from error
    if info["type"] != "file":
        raise UnusableError(IS_FOLDER)
    return _place_of(url, info)


def _place_of(url: str, info: Any) -> Place:
    """By what fsspec says of it; object stores name the version by a tag of its content."""
    version = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "created") if key in info), "")
    return Place(url, int(info["size"] or 0), version=version)
