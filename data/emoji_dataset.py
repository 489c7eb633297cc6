"""Animated emoji as captioned clips: Microsoft's Fluent emoji (MIT), from npm packages.

Each clip shows a concept, such as "man surfing", many of them in five skin tones too. Some pairs of a concept and a
skin tone are held out of training, which shows their concepts and their skin tones apart.
"""

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.probe import probe
from data.video import Frames, write_mp4
from video_dit.config import DataConfig
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.seeds import derive_seed

FPS = 12
SIZE = 128
NAMES_PACKAGE = "emojibase-data@17.0.0"
PICTURE_PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{number}@1.0.0" for number in range(1, 5))
SKIN_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_SOUNDS_LIKE_A_VOWEL = re.compile(r"(?!uni|ewe|one)[aeiou]|hour", re.IGNORECASE)
HELD_OUT_SHARE = 3
"""Of so many concepts with skin tones, about one has one of its five tones held out."""


class Emoji(NamedTuple):
    """code: its Unicode characters in hexadecimal; concept: those of the emoji without skin tone."""

    code: str
    concept: str
    name: str
    skin_tone: str | None
    group: str
    keywords: tuple[str, ...]

    @property
    def caption(self) -> str:
        return f"an animated emoji of {self._described}"

    @property
    def caption_with_article(self) -> str:
        """As people would ask for most of them, "a crocodile", and wrong for some, "a fire"."""
        article = "an" if _SOUNDS_LIKE_A_VOWEL.match(self.name) else "a"
        return f"an animated emoji of {article} {self._described}"

    @property
    def _described(self) -> str:
        return f"{self.name} with {self.skin_tone} skin tone" if self.skin_tone else self.name

    @property
    def split(self) -> str:
        """A function of the concept and the skin tone alone: other emoji, or more of them, change nothing."""
        seed = derive_seed("held out emoji", self.concept)
        is_held_out = seed % HELD_OUT_SHARE == 0 and SKIN_TONES[seed // HELD_OUT_SHARE % 5] == self.skin_tone
        return "held_out" if is_held_out else "train"


class Made(NamedTuple):
    """The manifest, how many clips of each split it lists, and how many pictures gave none."""

    manifest: Path
    splits: dict[str, int]
    num_still: int
    num_unnamed: int


def make_clips(out: Path, limit: int | None, progress: Callable[[list[str], str], Iterable[str]]) -> Made:
    """Fetches what is missing, and writes a clip for each animated emoji, then manifest.jsonl.

    The packages are kept in the folder packages/, and clips that are there are not made again, so that a run that was
    stopped goes on.

    Args:
        out: the folder.
        limit: at most so many clips; then no more packages are fetched than it takes.
        progress: wraps the iteration over the pictures of a package, whose name it is given, to show it.

    Raises:
        UserError: npm is not installed, or cannot fetch a package.
    """
    emoji = read_emoji(fetch(NAMES_PACKAGE, out / "packages"))
    counts = {"still": 0, "unnamed": 0}
    rows = []
    for code, path in islice(_clips(out, emoji, counts, progress), limit):
        one = emoji[code]
        rows.append(
            {
                "path": path.relative_to(out).as_posix(),
                "caption": one.caption,
                "caption_with_article": one.caption_with_article,
                "split": one.split,
                "name": one.name,
                "skin_tone": one.skin_tone,
                "group": one.group,
                "keywords": one.keywords,
                "unicode": one.code,
                "frames": round((probe(path, DataConfig().limits).duration or 0) * FPS),
                "fps": FPS,
            }
        )
    manifest = out / "manifest.jsonl"
    write_atomically(manifest, "".join(json.dumps(row) + "\n" for row in rows))
    splits = {split: sum(row["split"] == split for row in rows) for split in ("train", "held_out")}
    return Made(manifest, splits, counts["still"], counts["unnamed"])


def fetch(package: str, folder: Path) -> Path:
    """The archive of an npm package, from the folder, or else from the registry.

    Raises:
        UserError: npm is not installed, or cannot fetch the package.
    """
    name, _, version = package.rpartition("@")
    archive = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        unfinished = folder / "unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", package, "--silent", "--pack-destination", str(unfinished)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise UserError(
                f"npm is not installed, which fetches {package}: install Node.js, or put {archive.name}, made by "
                f"'npm pack {package}' elsewhere, into {folder}"
            ) from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or f"exit code {error.returncode}").splitlines()[-1]
            raise UserError(
                f"npm could not fetch {package} ({last}): go online and run the same command again, or put "
                f"{archive.name}, made by 'npm pack {package}' elsewhere, into {folder}"
            ) from error
        (unfinished / archive.name).replace(archive)
    return archive


def read_emoji(archive: Path) -> dict[str, Emoji]:
    """By code, those that emojibase-data names, each with its variants of one skin tone."""
    with tarfile.open(archive) as tar:
        entries, messages = (json.load(_member(tar, f"package/en/{name}.json")) for name in ("data", "messages"))
    groups = {group["order"]: group["message"] for group in messages["groups"]}
    emoji = {}
    for entry in entries:
        if "group" not in entry:  # letters that flags are spelled with
            continue
        for variant in (entry, *entry.get("skins", ())):
            tone = variant.get("tone")
            if isinstance(tone, list):  # people of different skin tones
                continue
            code = _code(variant["hexcode"])
            skin_tone = SKIN_TONES[tone - 1] if tone else None
            concept, keywords = _code(entry["hexcode"]), tuple(entry.get("tags", ()))
            emoji[code] = Emoji(code, concept, entry["label"], skin_tone, groups[entry["group"]], keywords)
    return emoji


def to_frames(picture: Image.Image) -> Frames:
    """An animated picture on white at `FPS` and `SIZE`: frame k is the one that shows at k / FPS seconds."""
    starts, shown, end = [], [], 0.0
    for index in range(picture.n_frames):
        picture.seek(index)
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        shown.append(np.asarray(white.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
        starts.append(end)
        end += picture.info["duration"] / 1000
    times = np.arange(max(1, round(end * FPS))) / FPS
    return np.stack([shown[index] for index in np.searchsorted(starts, times + 1e-6, side="right") - 1])


def _clips(
    out: Path, emoji: dict[str, Emoji], counts: dict[str, int], progress: Callable[[list[str], str], Iterable[str]]
) -> Iterator[tuple[str, Path]]:
    """The code and file of each clip, package after package; counts the pictures that give none."""
    for package in PICTURE_PACKAGES:
        with tarfile.open(fetch(package, out / "packages")) as tar:
            pictures = [name for name in tar.getnames() if name.endswith((".webp", ".png"))]
            for name in progress(pictures, package):
                code = _code(Path(name).stem)
                path = out / "clips" / f"{code}.mp4"
                if code not in emoji:
                    counts["unnamed"] += 1
                elif path.exists() or _make_clip(path, _member(tar, name)):
                    yield code, path
                else:
                    counts["still"] += 1


def _make_clip(path: Path, content: io.BufferedIOBase) -> bool:
    """Writes the clip, if the picture moves."""
    with Image.open(content) as picture:
        if getattr(picture, "n_frames", 1) == 1:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.mp4")
        write_mp4(unfinished, to_frames(picture), FPS)
    unfinished.replace(path)
    return True


def _member(tar: tarfile.TarFile, name: str) -> Any:
    return tar.extractfile(name)


def _code(hexcode: str) -> str:
    """Without the variation selector, which some files have in their names and others lack."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")
