"""Writing files that are whole or not there."""

import errno
import fcntl
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path`, so that a reader or a crash sees the old text or the new one and nothing between."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def try_lock(descriptor: int) -> bool:
    """Takes an open file, until it is closed here and wherever it was inherited; False: another process has it.

    A file system that knows no locks gives it to everybody.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def sync(path: Path) -> None:
    """Until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
