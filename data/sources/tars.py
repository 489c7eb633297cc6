"""WebDataset tars: files whose names are equal up to the first dot belong together (000123.mp4, 000123.txt, .json).

https://github.com/webdataset/webdataset describes them. Only headers and texts are read here; where a video lies in the
tar is kept, and its bytes are copied when it is decoded.
"""

import tarfile
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from data.sources.captions import MAX_SIDECAR_BYTES
from data.storage import MissingError, Place, UnusableError, open_place

BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """A file in a tar: its name, and its bytes in the tar, or why it cannot be used."""

    name: str
    place: Place | UnusableError


class Tar(NamedTuple):
    """What a tar holds.

    members: its files, in order.
    texts: of the .txt and .json ones.
    problem: what is wrong with the tar as a whole.
    """

    members: list[Member]
    texts: dict[str, bytes]
    problem: str | None

    def groups(self) -> dict[str, list[Member]]:
        """The members by the part of the name that they share."""
        groups = defaultdict(list)
        for member in self.members:
            groups[key_of(member.name)].append(member)
        return groups

    def text(self, name: str) -> bytes:
        if name not in self.texts:
            raise MissingError("no such file")
        return self.texts[name]


def key_of(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def read_tar(tar: Place) -> Tar:
    """The members of a tar, which is read from its start to its end without its videos."""
    members: list[Member] = []
    texts: dict[str, bytes] = {}
    problem, end = None, 0
    try:
        with open_place(tar.location) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in _infos(archive):
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK if info.isreg() else info.offset_data
                if info.isdir():
                    continue
                place = _place(tar, info)
                members.append(Member(info.name, place))
                if info.name.endswith((".txt", ".json")) and isinstance(place, Place):
                    file.seek(info.offset_data)
                    texts[info.name] = file.read(min(info.size, MAX_SIDECAR_BYTES + 1))
            file.seek(end)
            if file.read(BLOCK) != bytes(BLOCK):  # tarfile takes whatever is no header for the end
                problem = f"is damaged, or cut short, after {len(members)} files"
    except tarfile.TarError as error:
        problem = f"is damaged after {len(members)} files ({error})" if members else f"is no tar: {error}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    return Tar(members, texts, problem)


def _infos(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        yield info
        archive.members.clear()  # it would keep them all


def _place(tar: Place, info: tarfile.TarInfo) -> Place | UnusableError:
    if not info.isreg() or info.issparse():
        return UnusableError("is a link, a device or a sparse file in a tar")
    if info.offset_data + info.size > tar.size:
        return UnusableError("is cut short, as the tar is")
    return Place(tar.location, info.size, info.offset_data, tar.version)
