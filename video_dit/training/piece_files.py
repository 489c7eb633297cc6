"""Files of pieces of tensors: every rank writes one, and any rank, or none, reads from all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from video_dit.errors import UserError
from video_dit.models.weights import os_errors, write_weights

_PATTERN = "rank-*.safetensors"


class PieceName(NamedTuple):
    """Of a piece in its file: the whole's key, and where the piece starts in the whole, which is flat."""

    key: str
    start: int

    def __str__(self) -> str:
        return f"{self.key}@{self.start}"

    @staticmethod
    def parse(text: str) -> "PieceName":
        key, _, start = text.rpartition("@")
        return PieceName(key, int(start))


def write_pieces(folder: Path, rank: int, pieces: Mapping[PieceName, Tensor]) -> None:
    """Writes a rank's file, which is on the disk afterwards."""
    file = folder / f"rank-{rank:05d}.safetensors"
    write_weights({str(name): values for name, values in pieces.items()}, file)


class _Part(NamedTuple):
    name: PieceName
    numel: int
    file: Path


def _open(file: Path) -> Any:
    with os_errors(file):
        return safe_open(file, framework="pt")


class PieceReader:
    """All pieces of a folder.

    Args:
        folder: where ranks have written theirs.

    Attributes:
        keys: of the wholes.

    Raises:
        UserError: there are none.
        OSError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, list[_Part]] = {}
        self._files = {file: _open(file) for file in sorted(folder.glob(_PATTERN))}
        if not self._files:
            raise UserError(f"{folder} is no checkpoint of this version (it has no {_PATTERN}): train it again")
        for file, tensors in self._files.items():
            for text in tensors.keys():  # noqa: SIM118, which is no dict
                name = PieceName.parse(text)
                numel = tensors.get_slice(text).get_shape()[0]
                self._parts.setdefault(name.key, []).append(_Part(name, numel, file))
        self.keys = list(self._parts)

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """These elements of a whole, flat, in CPU memory.

        Raises:
            UserError: no file holds all of them.
        """
        parts = sorted(self._parts.get(key, []))
        found: list[Tensor] = []
        position = start
        for part in parts:
            first, end = part.name.start, part.name.start + part.numel
            if first <= position < min(end, start + numel):
                within = slice(position - first, min(end, start + numel) - first)
                found.append(self._files[part.file].get_slice(str(part.name))[within])
                position = first + within.stop
        if position < start + numel:
            raise UserError(
                f"{self._folder} has no {key} from {position} to {start + numel}: was the run started with "
                "another model or optimizer, or is a file of a rank missing?"
            )
        return found[0] if len(found) == 1 else torch.cat(found)

    def read_whole(self, key: str) -> Tensor:
        """All elements of a whole, flat."""
        return self.read(key, 0, max(part.name.start + part.numel for part in self._parts[key]))
