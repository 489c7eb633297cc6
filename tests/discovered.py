"""What the tests of discovery share: sources that they make, and what was found in short."""

import io
import tarfile
from pathlib import Path

from data.sources.discovery import Dropped, Video

ODD_NAMES = ("with space.mp4", 'it\'s "quoted".mp4', "two\nlines.mp4", "rocket \U0001f680.mp4", "-dash.mp4", "a:b.mp4")


def texts(videos: list[Video]) -> dict[str, list[tuple[str, float]]]:
    return {video.id: [tuple(caption) for caption in video.captions] for video in videos}


def reasons(dropped: list[Dropped]) -> dict[str, str]:
    return {entry.id: entry.reason for entry in dropped}


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
