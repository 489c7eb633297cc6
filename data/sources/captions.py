"""What captions say: from the columns of a manifest or the files beside a video, cleaned to one line."""

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data.storage import MissingError, UnusableError
from video_dit.config import DataConfig

MAX_SIDECAR_BYTES = 1 << 24


class Caption(NamedTuple):
    """One of a clip's captions; it is shown in proportion to its weight."""

    text: str
    weight: float


class Captions(NamedTuple):
    """Those that a clip has, in the order of the config, and what was noticed about them."""

    shown: tuple[Caption, ...] = ()
    notes: tuple[str, ...] = ()


CLEANED = "with a caption of which control characters or bytes that are no text were taken out"
TOO_LONG = "with a caption longer than data.max_caption_length, which counts as none"
NOT_JSON = "with a .json file beside it that holds no JSON object, and was left alone"
UNREADABLE = "with a file beside it that cannot be read, and was left alone"
TOO_LARGE = f"with a file beside it of more than {MAX_SIDECAR_BYTES >> 20} MiB, which was left alone"


def captions_in(columns: Mapping[str, Any], config: DataConfig) -> Captions:
    """Those of the config's columns that hold text."""
    shown, notes = [], []
    for column, weight in config.caption_columns.items():
        value = columns.get(column)
        if not isinstance(value, str):
            continue
        text, changed = clean(value)
        if changed:
            notes.append(CLEANED)
        if len(text) > config.max_caption_length:
            notes.append(TOO_LONG)
        elif text:
            shown.append(Caption(text, weight))
    return Captions(tuple(shown), tuple(dict.fromkeys(notes)))


def captions_beside(stem: str, read: Callable[[str], bytes], config: DataConfig) -> tuple[Captions, dict[str, Any]]:
    """Those of the files beside a video: the columns in STEM.json, or else the text of STEM.txt.

    Args:
        stem: the video's name without its suffix.
        read: gives a file's first `MAX_SIDECAR_BYTES` + 1 bytes, or raises MissingError.

    Returns:
        the captions, and what STEM.json holds.
    """
    notes: list[str] = []
    columns: dict[str, Any] = {}
    for suffix in (".json", ".txt"):
        try:
            content = read(stem + suffix)
        except MissingError:
            continue
        except (UnusableError, OSError):
            notes.append(UNREADABLE)
            continue
        if len(content) > MAX_SIDECAR_BYTES:
            notes.append(TOO_LARGE)
            continue
        text = content.decode("utf-8-sig", errors="surrogateescape")
        if suffix == ".json":
            found = _object(text)
            columns = found or {}
            if found is None:
                notes.append(NOT_JSON)
            captions = captions_in(columns, config)
        else:
            name = next(iter(config.caption_columns))
            captions = captions_in({name: text}, config)
        notes += captions.notes
        if captions.shown:
            return Captions(captions.shown, tuple(dict.fromkeys(notes))), columns
    return Captions((), tuple(dict.fromkeys(notes))), columns


def clean(text: str) -> tuple[str, bool]:
    """One line without control characters and lone surrogates, which no encoder can read; and whether it had any."""
    dropped = ("Cc", "Cs")  # control characters; halves of characters, as which Python keeps bytes that are no UTF-8
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in dropped)
    return " ".join(kept.split()), len(kept) != len(text)


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
