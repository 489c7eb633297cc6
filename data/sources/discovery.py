"""Which videos there are and what their captions say: from a folder, a manifest or WebDataset tars."""

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sources.captions import MAX_SIDECAR_BYTES, Caption, Captions, captions_beside, captions_in
from data.sources.rows import MANIFEST_SUFFIXES, FormatError, Row, RowError, clips_of, name_of, read_rows
from data.sources.tars import Tar, key_of, read_tar
from data.storage import IS_FOLDER, MissingError, Place, Storage, UnusableError, is_url, open_place, storage_of
from video_dit.config import DataConfig
from video_dit.errors import UserError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif", ".ogv", ".3gp")
)
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
TAR_SUFFIX = ".tar"


@dataclass(frozen=True)
class Video:
    """One input.

    id: its path relative to the source (in a tar: the tar's path, then the member's), which names its clips for good.
    place: where its bytes are.
    captions: those that it has.
    notes: what was noticed about them.
    """

    id: str
    place: Place
    captions: tuple[Caption, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """An input that gives nothing, and why."""

    id: str
    reason: str


def discover(source: str | Path, config: DataConfig) -> tuple[list[Video], list[Dropped]]:
    """The videos of a folder, a manifest or a tar, in the order of their ids, and what cannot be one.

    A folder with a file named manifest.jsonl, .csv or .parquet is read through it; any other is searched at all depths
    for videos and tars, and with `data.images` for images. A caption is in the manifest, or else beside the video: in a
    .json or a .txt of the same name.

    Args:
        source: a path, or a URL that fsspec reads, such as s3://BUCKET/FOLDER.

    Raises:
        UserError: there is no such source, or it holds no video.
    """
    source = os.fspath(source)
    name = posixpath.basename(source)
    is_folder = _is_folder(source)
    if not is_url(source):
        if not os.path.exists(source):
            raise UserError(f"{source} does not exist: name a folder of videos, a manifest or a WebDataset tar")
        if not is_folder and not _is_known_file(source):
            raise UserError(f"{source} is neither a folder nor a manifest (.jsonl, .csv, .parquet) nor a .tar")
    root = root_of(source)
    found = _Discovery(storage_of(root, config.allow_outside), config)
    manifest = next((m for m in _MANIFEST_NAMES if found.exists(m)), None) if is_folder else name
    if manifest is None:
        found.add_folder()
    elif manifest.lower().endswith(TAR_SUFFIX):
        found.add_tar(manifest)
    else:
        found.add_manifest(posixpath.join(root, manifest))
    if not found.videos and not found.dropped:
        images = "" if config.images else f"; with data.images=true also {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise UserError(
            f"{source} holds no video: files ending in {', '.join(sorted(VIDEO_SUFFIXES))} are taken{images}"
        )
    return sorted(found.videos.values(), key=lambda video: video.id), found.dropped


def root_of(source: str) -> str:
    """The folder that names are relative to: a source itself, or that of a manifest or a tar."""
    return source if _is_folder(source) else source.removesuffix(posixpath.basename(source))


def _is_folder(source: str) -> bool:
    """Of a URL its name tells, as a request would take long."""
    return not _is_known_file(source) if is_url(source) else os.path.isdir(source)


def _is_known_file(source: str) -> bool:
    return posixpath.splitext(source)[1].lower() in (*MANIFEST_SUFFIXES, TAR_SUFFIX)


_MANIFEST_NAMES = tuple(f"manifest{suffix}" for suffix in MANIFEST_SUFFIXES)


class _Discovery:
    """What has been found so far."""

    def __init__(self, storage: Storage, config: DataConfig) -> None:
        self.storage = storage
        self.config = config
        self.suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES if config.images else VIDEO_SUFFIXES
        self.videos: dict[str, Video] = {}
        self.dropped: list[Dropped] = []

    def exists(self, name: str) -> bool:
        try:
            self.storage.place(name)
        except MissingError:
            return False
        return True

    def drop(self, name: str, reason: str) -> None:
        self.dropped.append(Dropped(_text(name), reason))

    def add_folder(self) -> None:
        for name, problem in self.storage.names():
            suffix = posixpath.splitext(name)[1].lower()
            taken = suffix in self.suffixes or suffix == TAR_SUFFIX
            if problem and (taken or problem != IS_FOLDER):
                self.drop(name, problem)
            elif suffix == TAR_SUFFIX:
                self.add_tar(name)
            elif taken:
                self.add_file(name, {})

    def add_manifest(self, path: str) -> None:
        """
        Args:
            path: or URL.

        Raises:
            UserError: it is no manifest, or none of its rows can be read.
        """
        first_problem, any_good = None, False
        try:
            with open_place(path) as file:
                for where, row in read_rows(file, posixpath.splitext(path)[1].lower()):
                    try:
                        self._add_row(row)
                        any_good = True
                    except FormatError as error:
                        first_problem = first_problem or f"{where}: {error}"
                        self.drop(where, str(error))
                    except RowError as error:
                        any_good = True
                        self.drop(where, str(error))
        except UserError as error:
            raise UserError(f"{path} {error}") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        if first_problem and not any_good:
            raise UserError(f"{path}, {first_problem}")

    def _add_row(self, row: Row | FormatError) -> None:
        if isinstance(row, FormatError):
            raise row
        for clip in clips_of(row, self.config):
            self.add_file(name_of(clip, self.config), clip)

    def add_file(self, name: str, row: Mapping[str, Any]) -> None:
        """A video, with its row of a manifest."""
        video_id = self.storage.id_of(name)
        if self._belongs_elsewhere(video_id, row):
            return
        try:
            place = self.storage.place(name)
        except UnusableError as error:
            self.drop(video_id, str(error))
            return
        captions = captions_in(row, self.config)
        if not captions.shown:
            beside, columns = captions_beside(posixpath.splitext(name)[0], self._read, self.config)
            captions = Captions(beside.shown, (*captions.notes, *beside.notes))
            if self._belongs_elsewhere(video_id, columns):
                return
        self._add(video_id, place, captions)

    def add_tar(self, name: str) -> None:
        try:
            tar = read_tar(self.storage.place(name))
        except UnusableError as error:
            self.drop(name, str(error))
            return
        tar_id = self.storage.id_of(name)
        for key, members in tar.groups().items():
            videos = [member for member in members if posixpath.splitext(member.name)[1].lower() in self.suffixes]
            for video in videos:
                self._add_member(tar_id, video.name, video.place, tar)
            if not videos:
                kinds = ", ".join(member.name.removeprefix(key) or "no suffix" for member in members)
                self.drop(f"{tar_id}/{key}", f"has no video among its files in the tar, only {kinds}")
        if tar.problem:
            self.drop(tar_id, tar.problem)

    def _add_member(self, tar_id: str, name: str, place: Place | UnusableError, tar: Tar) -> None:
        member_id = f"{tar_id}/{name}"
        if isinstance(place, UnusableError):
            self.drop(member_id, str(place))
            return
        stem = posixpath.splitext(name)[0]
        own = any(stem + suffix in tar.texts for suffix in (".json", ".txt"))
        captions, columns = captions_beside(stem if own else key_of(name), tar.text, self.config)
        if not self._belongs_elsewhere(member_id, columns):
            self._add(member_id, place, captions)

    def _belongs_elsewhere(self, name: str, columns: Mapping[str, Any]) -> bool:
        split = columns.get("split")
        if split and split != self.config.split:
            self.drop(name, f"split is {split!r}, not {self.config.split!r}")
            return True
        return False

    def _add(self, name: str, place: Place, captions: Captions) -> None:
        video = Video(_text(name), place, captions.shown, captions.notes)
        if video.id in self.videos:
            self.drop(name, "listed twice")
        else:
            self.videos[video.id] = video

    def _read(self, name: str) -> bytes:
        with open_place(self.storage.place(name).location) as file:
            return file.read(MAX_SIDECAR_BYTES + 1)


def _text(name: str) -> str:
    """A file name as text that can be written anywhere: bytes that are no UTF-8 as \\udcNN."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
