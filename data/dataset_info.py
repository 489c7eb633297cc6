"""dataset.json: what a folder of shards holds, what it was made with, and how to tell that it is whole."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from video_dit.config import WHERE_AND_HOW
from video_dit.contracts import Autoencoder, EncodedShape, TextSegment
from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid

VERSION = 4

Holds = Literal["latents", "videos"]
"""What shards hold of a clip: what the autoencoder made of it, or the place from which training decodes it."""


def bucket_name(pixels: Iterable[int]) -> str:
    """Of a shape of clips: frames x height x width, such as "8x32x32"."""
    return "x".join(map(str, pixels))


class Bucket(NamedTuple):
    """One shape of clips: in pixels, and as latents."""

    pixels: Grid
    latents: Grid

    @classmethod
    def of(cls, pixels: Grid, autoencoder: Autoencoder) -> "Bucket":
        """
        Raises:
            UserError: the autoencoder does not take clips of this size.
        """
        return cls(pixels, latent_grid(pixels, autoencoder))

    @property
    def name(self) -> str:
        return bucket_name(self.pixels)


def covering(grids: Iterable[Grid]) -> Grid:
    """The smallest grid that each of these fits into."""
    return Grid(*map(max, zip(*grids, strict=True)))


class ShardInfo(NamedTuple):
    """A file: its clips, all of one bucket, by that one's name; its bytes, and the checksum of these."""

    clips: int
    bucket: str
    bytes: int
    checksum: str


@dataclass(frozen=True)
class DatasetInfo:
    """dataset.json.

    tables: the config tables that the shards were made with.
    inputs: names what they hold.
    files: names the versions of the videos' files and, where shards hold videos, their places.
    describers: the versions of the scorers and the captioner, by their keys; None where their files could not be read.
    fingerprints: of the encoders, by their tables' names; None where their files could not be read.
    encoded: what the encoders made of the clips; its grid covers all buckets.
    buckets: the shapes of the clips, by their names.
    shards: by the name of the file.
    empty_prompt: the name of the file that has the text encoder's answer to "".
    counts: of videos, clips and what else was counted.
    dropped: what was left out and why; a row for each reason.
    holds: latents, or the places of the videos from which training decodes them.
    version: of this layout.
    """

    tables: dict[str, dict[str, Any]]
    inputs: str
    files: str
    describers: dict[str, str | None]
    fingerprints: dict[str, str | None]
    encoded: EncodedShape
    buckets: dict[str, Bucket]
    shards: dict[str, ShardInfo]
    empty_prompt: str
    counts: dict[str, int]
    dropped: list[dict[str, Any]]
    holds: Holds
    version: int = VERSION

    @property
    def num_clips(self) -> int:
        return sum(shard.clips for shard in self.shards.values())

    def differing_keys(self, other: "DatasetInfo") -> list[str]:
        """What shards must have in common to be shown to the model of others, and these have not; videos may differ."""
        keys = [
            name
            for name, ours in self.fingerprints.items()
            if ours and other.fingerprints[name] and ours != other.fingerprints[name]
        ]
        for table in ("autoencoder", "text_encoder"):
            for key, value in self.tables[table].items():
                if f"{table}.{key}" not in WHERE_AND_HOW and value != other.tables[table][key]:
                    keys.append(f"{table}.{key}")
        if self.tables["data"]["fps"] != other.tables["data"]["fps"]:
            keys.append("data.fps")
        return keys + [f"shape of clips ({name})" for name in self.buckets if name not in other.buckets]

    def check_goes_with(self, other: "DatasetInfo", folder: Path, other_folder: Path) -> None:
        """
        Raises:
            UserError: these shards, of `folder`, cannot be shown to the model of the other ones.
        """
        if different := self.differing_keys(other):
            raise UserError(
                f"{folder} was preprocessed with another {different[0]} than {other_folder}: use one config for both"
            )

    def to_json(self) -> dict[str, Any]:
        encoded = {
            **self.encoded._asdict(),
            "segments": [segment._asdict() for segment in self.encoded.segments],
        }
        buckets = {name: bucket._asdict() for name, bucket in self.buckets.items()}
        shards = {name: shard._asdict() for name, shard in self.shards.items()}
        return {**self.__dict__, "encoded": encoded, "buckets": buckets, "shards": shards}

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return (json.dumps(self.to_json(), indent=2) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> "DatasetInfo":
        """
        Raises:
            UserError: the folder holds no finished shards, or those of another version.
        """
        path = folder / "dataset.json"
        if not path.exists():
            raise UserError(f"{folder} holds no shards (it has no dataset.json): make them with scripts/preprocess.py")
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes, path: str) -> "DatasetInfo":
        """
        Args:
            content: what `to_bytes` gave.
            path: names it, in errors.

        Raises:
            UserError: it is damaged, or of another version.
        """
        try:
            values = dict(json.loads(content))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): fetch it again, or preprocess with --overwrite") from error
        version = values.get("version", 1)
        if version != VERSION or values.keys() != cls.__dataclass_fields__.keys():
            raise UserError(f"{path} is of version {version}, and this is {VERSION}: preprocess with --overwrite")
        buckets = {
            name: Bucket(Grid(*grids["pixels"]), Grid(*grids["latents"])) for name, grids in values["buckets"].items()
        }
        shards = {name: ShardInfo(**shard) for name, shard in values["shards"].items()}
        return cls(**{**values, "encoded": _encoded_shape(values["encoded"]), "buckets": buckets, "shards": shards})


def _encoded_shape(values: dict[str, Any]) -> EncodedShape:
    """From JSON, which knows lists alone."""
    segments = tuple(map(TextSegment.from_json, values["segments"]))
    return EncodedShape(**{**values, "grid": Grid(*values["grid"]), "segments": segments})


def checksum(chunks: Iterable[bytes | memoryview]) -> str:
    """BLAKE2b of bytes, 128 bits, in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def verify(folder: Path, progress: Callable[[list[str]], Iterable[str]] = lambda names: names) -> list[str]:
    """What is wrong with the shards of a folder, all of whose bytes are read; nothing where they are as written.

    Args:
        folder: of shards.
        progress: wraps the iteration over the files' names, to show it.

    Raises:
        UserError: the folder holds no finished shards.
    """
    problems = []
    shards = DatasetInfo.read(folder).shards
    for name in progress(list(shards)):
        if problem := size_problem(folder / name, shards[name]):
            problems.append(problem)
        elif checksum(_chunks(folder / name)) != shards[name].checksum:
            problems.append(f"{folder / name} holds other bytes than were written")
    return problems


def size_problem(path: Path, shard: ShardInfo) -> str | None:
    """What is wrong with a file as far as its length tells."""
    if not path.exists():
        return f"{path} is missing"
    size = path.stat().st_size
    return None if size == shard.bytes else f"{path} is damaged: it has {size:,} bytes instead of {shard.bytes:,}"
