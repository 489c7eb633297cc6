"""Which videos there are and what their captions say: from a folder or a manifest."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from video_dit.config import DataConfig
from video_dit.errors import UserError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif", ".ogv", ".3gp")
)
MANIFEST_SUFFIXES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Video:
    """One input. `id` is its path relative to the source, which names its clips for good."""

    id: str
    path: Path
    caption: str | None


@dataclass(frozen=True)
class Dropped:
    """An input that gives nothing, and why."""

    id: str
    reason: str


def discover(source: Path, config: DataConfig) -> tuple[list[Video], list[Dropped]]:
    """The videos of a folder or a manifest, in the order of their ids.

    A folder with a file named manifest.jsonl, .csv or .parquet is read through it; any other is searched at all depths,
    and a caption is the text of the file beside the video with the suffix .txt.

    Raises:
        UserError: there is no such source, or it holds no video.
    """
    if source.is_dir():
        manifests = [path for suffix in MANIFEST_SUFFIXES if (path := source / f"manifest{suffix}").exists()]
        videos, dropped = _read_manifest(manifests[0], config) if manifests else (_search(source), [])
    elif source.suffix in MANIFEST_SUFFIXES and source.exists():
        videos, dropped = _read_manifest(source, config)
    else:
        problem = "is neither a folder nor a manifest (.jsonl, .csv, .parquet)" if source.exists() else "does not exist"
        raise UserError(f"{source} {problem}: name a folder of videos or a manifest")
    if not videos and not dropped:
        raise UserError(f"{source} holds no video: files ending in {', '.join(sorted(VIDEO_SUFFIXES))} are taken")
    return sorted(videos, key=lambda video: video.id), dropped


def _search(folder: Path) -> list[Video]:
    files = [path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    return [Video(path.relative_to(folder).as_posix(), path, _sidecar(path)) for path in files]


def _sidecar(video: Path) -> str | None:
    sidecar = video.with_suffix(".txt")
    return _one_line(sidecar.read_text(encoding="utf-8", errors="replace")) if sidecar.exists() else None


def _one_line(text: str) -> str | None:
    return " ".join(text.split()) or None


def _read_manifest(manifest: Path, config: DataConfig) -> tuple[list[Video], list[Dropped]]:
    videos: dict[str, Video] = {}
    dropped = []
    for number, row in enumerate(_rows(manifest), start=1):
        if not isinstance(row, dict):
            raise UserError(f"{manifest}, row {number}: expected an object with columns, not {row!r}")
        if config.path_column not in row:
            raise UserError(
                f"{manifest}, row {number}: no column {config.path_column!r}, only {', '.join(map(repr, row))}: "
                "name the column of video files with data.path_column"
            )
        name, caption = row[config.path_column], row.get(config.caption_column)
        if not isinstance(name, str) or not name:
            dropped.append(Dropped(f"row {number}", f"{config.path_column} is {name!r}, not the name of a file"))
            continue
        path = manifest.parent / name
        split = row.get("split")
        if split and split != config.split:
            dropped.append(Dropped(name, f"split is {split!r}, not {config.split!r}"))
        elif name in videos:
            dropped.append(Dropped(name, "listed twice"))
        elif not path.exists():
            dropped.append(Dropped(name, "no such file"))
        else:
            videos[name] = Video(name, path, (isinstance(caption, str) and _one_line(caption)) or _sidecar(path))
    return list(videos.values()), dropped


def _rows(manifest: Path) -> Iterable[Any]:
    try:
        if manifest.suffix == ".parquet":
            return pyarrow.parquet.read_table(manifest).to_pylist()
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            if manifest.suffix == ".csv":
                return list(csv.DictReader(file))
            return [json.loads(line) for line in file if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{manifest} is not a {manifest.suffix} manifest: {error}") from error
