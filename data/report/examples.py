"""Which clips and videos the report shows, and their pictures."""

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

BEGINNING = 2.0
"""Seconds that are shown of a video which was dropped as a whole."""

MAX_FRAMES = 3
BOX = (86, 119)
"""(height, width) in which a frame is shown, in CSS pixels."""

GAP = 2
MAX_BYTES = 3_500_000
"""Of all pictures, as they are in the file."""

_FORMS = ((1.5, 80), (1.0, 80), (1.0, 60), (0.6, 60), (0.35, 50), (0.2, 40))
"""JPEG pixels per CSS pixel, and quality: the first that fits is taken."""


class Example(NamedTuple):
    """A stretch of a video to decode for the report.

    id: of the clip, or of the video that was dropped as a whole; names its pictures.
    video: the id of the video.
    start, seconds: from its first frame on.
    """

    id: str
    video: str
    start: float
    seconds: float


def choose_examples(videos: pa.Table, clips: pa.Table, seed: int, per_bucket: int, per_rule: int) -> list[Example]:
    """Random clips of each bucket and of what each rule dropped, by id; the order of the rows does not matter.

    Clips of different videos are taken as far as there are any. Of a video that was dropped as a whole its beginning
    is taken, if it was probed.

    Args:
        videos, clips: the tables.
        seed: with an id it says how early that is taken.
        per_bucket, per_rule: at most so many.
    """
    buckets: dict[object, list[Example]] = defaultdict(list)
    rules: dict[object, list[Example]] = defaultdict(list)
    columns = ["id", "video", "start", "seconds", "frames", "height", "width", "rule"]
    for id_, video, start, seconds, *shape, rule in _rows(clips, columns):
        of_same_kind = buckets[tuple(shape)] if rule is None else rules[rule]
        of_same_kind.append(Example(id_, video, start, seconds))
    dropped = videos.filter(videos["rule"].is_valid())
    dropped = dropped.filter(dropped["format"].is_valid())
    for id_, seconds, rule in _rows(dropped, ["id", "seconds", "rule"]):
        rules[rule].append(Example(id_, id_, 0.0, BEGINNING if seconds is None else min(BEGINNING, seconds)))
    chosen = [example for group in buckets.values() for example in _draw(group, seed, per_bucket)]
    chosen += [example for group in rules.values() for example in _draw(group, seed, per_rule)]
    return sorted(chosen)


def _rows(table: pa.Table, columns: list[str]) -> Iterable[tuple]:
    return zip(*(table[column].to_pylist() for column in columns), strict=True)


def _draw(group: list[Example], seed: int, count: int) -> list[Example]:
    """The first of each video in a random order, then the others in that order."""
    order = sorted(group, key=lambda example: _rank(seed, example.id))
    first = {example.video: example for example in reversed(order)}
    return sorted(order, key=lambda example: first[example.video] is not example)[:count]


def _rank(seed: int, id_: str) -> bytes:
    return hashlib.blake2b(f"{seed} {id_}".encode(), digest_size=16).digest()


class Thumbnail(NamedTuple):
    """A strip of frames: a data URL, the size in CSS pixels at which it is shown, and whether that magnifies it."""

    url: str
    height: int
    width: int
    is_coarse: bool


def thumbnails(pictures: Mapping[str, Sequence[NDArray[np.uint8]]]) -> dict[str, Thumbnail]:
    """A strip of at most `MAX_FRAMES` frames for each id, as large and as good as `MAX_BYTES` for all allows."""
    for scale, quality in _FORMS:
        strips = {id_: _strip(frames, scale, quality) for id_, frames in pictures.items() if frames}
        if sum(len(strip.url) for strip in strips.values()) <= MAX_BYTES:
            break
    return strips


def _strip(frames: Sequence[NDArray[np.uint8]], scale: float, quality: int) -> Thumbnail:
    shown = [frames[index] for index in np.unique(np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int))]
    height, width = shown[0].shape[:2]
    fit = min(BOX[0] / height, BOX[1] / width)
    shrink = min(1.0, fit * scale)  # what is smaller is magnified by the browser
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    gap = max(1, round(GAP * shrink / fit))
    strip = Image.new("RGB", (len(shown) * (size[0] + gap) - gap, size[1]), "grey")
    for index, frame in enumerate(shown):
        picture = Image.fromarray(frame)
        strip.paste(picture.resize(size, Image.Resampling.BOX) if shrink < 1 else picture, (index * (size[0] + gap), 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=quality, optimize=True)
    times = fit / shrink
    url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(url, round(strip.height * times), round(strip.width * times), times >= 2)
