"""Where clips go: names that are free, GIF and PNG, and the record with which a clip can be made again."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.run_folder import versions
from video_dit.sampling.extrapolation import SamplingWarning
from video_dit.sampling.requests import ClipRequest


class ClipFiles(NamedTuple):
    """The files of one clip: `stem` and an ending each, and a folder of frames."""

    stem: Path

    @property
    def mp4(self) -> Path:
        return self._with(".mp4")

    @property
    def gif(self) -> Path:
        return self._with(".gif")

    @property
    def record(self) -> Path:
        return self._with(".json")

    @property
    def frames(self) -> Path:
        return self._with("-frames")

    @property
    def exist(self) -> bool:
        """One of them does, so that the name is taken."""
        return any(path.exists() for path in (self.mp4, self.gif, self.record, self.frames))

    def _with(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)


def name_clips(folder: Path, requests: Sequence[ClipRequest], overwrite: bool) -> list[ClipFiles]:
    """Files for each request: its name, or what its prompt and seed make of one; if that is taken, name-2, name-3 ...

    With `overwrite`, only another clip of these requests takes a name.
    """
    taken: set[ClipFiles] = set()
    clips = []
    for request in requests:
        stem = folder / (request.name or f"{slug(request.prompt)}-seed{request.seed}")
        files = next(files for files in _numbered(stem) if files not in taken and (overwrite or not files.exist))
        taken.add(files)
        clips.append(files)
    return clips


def _numbered(stem: Path) -> Iterator[ClipFiles]:
    yield ClipFiles(stem)
    for number in count(2):
        yield ClipFiles(stem.with_name(f"{stem.name}-{number}"))


def slug(prompt: str) -> str:
    """A file name that tells what is shown."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "clip"


def unused_path(path: Path) -> Path:
    """The path, or the first of path-2, path-3 ... that is free."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def write_gif(path: Path | BinaryIO, frames: NDArray[np.uint8], fps: float) -> None:
    """An endless GIF of frames [F, H, W, 3]; the format counts time in hundredths of a second."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)


def write_frames(folder: Path, frames: NDArray[np.uint8]) -> None:
    """Frames [F, H, W, 3] as 0000.png, 0001.png ..., in place of any that are there."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9]*.png"):
        old.unlink()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:04}.png")


class Record(NamedTuple):
    """All that a clip was made of.

    request: with every setting that it was made with.
    run: the run folder.
    weights: the file of weights, relative to it if it lies there.
    precision: of the model's computation.
    tile_size: of the autoencoder, where another than the config's was asked for.
    sha256: of the weights, the run's config and the files that the request names, by what they are.
    versions: of the software.
    """

    request: ClipRequest
    run: Path
    weights: str
    precision: str
    tile_size: list[int] | None
    sha256: dict[str, str]
    versions: dict[str, Any]

    def write(self, files: ClipFiles, overwrite: bool) -> ClipFiles:
        """Writes it where a clip is about to be, which takes the name.

        Returns:
            the clip's files: of the next free name, if another program has taken this one meanwhile.
        """
        text = json.dumps(self._values(), indent=2, ensure_ascii=False) + "\n"
        if overwrite:
            write_atomically(files.record, text)
            return files
        names = _numbered(files.stem)
        while True:
            free = next(names)
            if free.exist:
                continue
            try:
                with free.record.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                continue
            return free

    def _values(self) -> dict[str, Any]:
        return {
            "request": self.request.model_dump(mode="json", exclude_none=True),
            "run": str(self.run),
            "weights": self.weights,
            "precision": self.precision,
            "tile_size": self.tile_size,
            "sha256": self.sha256,
            "versions": self.versions,
        }

    @classmethod
    def read(cls, path: Path) -> "Record":
        """
        Raises:
            UserError: this is no record of a clip.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            request = ClipRequest.model_validate(values.pop("request"))
            return cls(request, Path(values.pop("run")), **values)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not the JSON that generate.py writes beside a clip") from error

    def check(self, files: Mapping[str, Path]) -> None:
        """Warns where the run's config or the software has changed, which may change the clip.

        Args:
            files: what the run gives, by what it is; see `RunFolder.made_of`.

        Raises:
            UserError: the weights or a given file are not those that the clip was made with.
        """
        for what, digest in self.sha256.items():
            file = files.get(what) or getattr(self.request, what)
            if sha256(file) == digest:
                continue
            if what == "config":
                told = f"{file} has changed since the clip was made, which may differ now"
                warnings.warn(told, SamplingWarning, stacklevel=1)
            else:
                raise UserError(f"{file}: has changed since the clip was made, which cannot be made again without it")
        for name, version in versions().items():
            if self.versions.get(name) != version:
                told = f"the clip was made with {name} {self.versions.get(name)}, and this is {version}: it may differ"
                warnings.warn(told, SamplingWarning, stacklevel=1)


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
