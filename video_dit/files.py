"""Writing files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """For writing bytes; at the end they replace `path`, so that a reader or a crash sees the old ones or all new."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` with a text in UTF-8, in the way of `open_atomically`."""
    with open_atomically(path) as file:
        file.write(text.encode("utf-8"))
