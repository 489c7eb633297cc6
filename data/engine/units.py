"""What an engine runs."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from data.engine.guard import Guard
from data.output import OutputFolder

RESULTS_VERSION = 3
"""Part of each key: results of other versions are made again."""


def _always(result: bytes) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True)
class Unit:
    """A piece of work that depends on no other of its stage, and gives the same whenever it is repeated.

    stage: what is done, a word.
    key: names what the result depends on; see `unit_key`.
    work: does it, in any process, and gives the result. It goes through its items, such as videos, under the guard.
    count: of its items, for who watches.
    is_there: whether what a result speaks of is still there; it is made again where it is not.
    """

    stage: str
    key: str
    work: Callable[[Guard], bytes]
    count: int = 1
    is_there: Callable[[bytes], bool] = _always

    @property
    def path(self) -> str:
        """Of the result, in the folder of results."""
        return f"{self.stage}/{self.key[:2]}/{self.key}"

    def known_result(self, results: OutputFolder) -> bytes | None:
        """What an earlier run has made of it; nothing if the machine went down before it was on the disk."""
        kept = results.read(self.path)
        if kept is None or kept[:_DIGEST] != _digest(kept[_DIGEST:]) or not self.is_there(kept[_DIGEST:]):
            return None
        return kept[_DIGEST:]

    def keep(self, result: bytes, results: OutputFolder) -> None:
        """
        Raises:
            UserError: it cannot be written.
        """
        results.write(self.path, _digest(result) + result, durable=False)


_DIGEST = 8


def _digest(result: bytes) -> bytes:
    return hashlib.blake2b(result, digest_size=_DIGEST).digest()


def unit_key(stage: str, *parts: object) -> str:
    """
    Args:
        stage: the unit's.
        parts: all that the result depends on, as JSON can hold it.
    """
    text = json.dumps([RESULTS_VERSION, stage, *parts], sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
