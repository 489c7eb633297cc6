"""Watches over a unit's items, so that one which hangs or crashes its process costs itself alone."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from data.output import OutputFolder
from video_dit.errors import UserError

MAX_DEATHS = 3
"""Processes that an item may take with it. Each may have been killed by somebody else, and is forgiven before that."""

TICK = 0.1
"""Seconds between looks at the clock."""

GRACE = 10.0
"""Seconds after which a process that could not even say what hung is ended from outside Python."""


class ItemError(UserError):
    """An item that hung, or crashed the processes that worked on it; the message says which."""


class Guard:
    """Lets everything pass, and watches nothing: for work in this process."""

    @contextmanager
    def item(self, name: str, seconds: float = 0.0) -> Iterator[None]:  # noqa: ARG002
        """Around the work on one item.

        Args:
            name: of the item, in the unit.
            seconds: that it may take, besides the limit for all.

        Raises:
            ItemError: earlier attempts at this unit hung in it or crashed in it.
        """
        yield


@dataclass
class _Attempts:
    """What became of the earlier attempts at a unit: who works on it now is the last one's `current`."""

    run: str
    current: str | None = None
    deaths: dict[str, int] = field(default_factory=dict)
    hung: dict[str, str] = field(default_factory=dict)


def _attempts(written: bytes | None, run: str) -> _Attempts:
    """Those of the run that were written down; none where the machine went down and left something else."""
    try:
        attempts = _Attempts(**json.loads(written or b""))
    except (ValueError, TypeError):
        return _Attempts(run)
    return attempts if attempts.run == run else _Attempts(run)


class WatchingGuard(Guard):
    """Ends the process when an item takes too long; whoever tries the unit again then passes over the item.

    Which item is worked on is written down first, so that after a crash it is known as well.

    Args:
        folder: for what is written down.
        name: of the unit.
        run: of the program; what an earlier run wrote down does not count, as it may have been killed.
        time_limit: seconds for each item.

    Raises:
        UserError: processes died outside of any item, again and again.
    """

    def __init__(self, folder: OutputFolder, name: str, run: str, time_limit: float) -> None:
        path = f"attempts/{name.rpartition('/')[2]}"
        self._time_limit = time_limit
        self._attempts = _attempts(folder.read(path), run)
        self._note = folder.note(path)
        if self._attempts.current is not None:
            self._count_death(self._attempts.current)
        if self._attempts.deaths.get(_NO_ITEM, 0) >= MAX_DEATHS:
            raise UserError(
                f"{MAX_DEATHS} processes died one after another at {name}, and at no video: there may be too little "
                "memory for so many: give --workers fewer"
            )
        self._enter(_NO_ITEM)

    @contextmanager
    def item(self, name: str, seconds: float = 0.0) -> Iterator[None]:
        if name in self._attempts.hung:
            raise ItemError(self._attempts.hung[name])
        if self._attempts.deaths.get(name, 0) >= MAX_DEATHS:
            raise ItemError(f"crashes the process that works on it (tried {MAX_DEATHS} times)")
        limit = self._time_limit + seconds
        self._enter(name)
        _deadline.set(limit, partial(self._end_process, name, limit))
        try:
            yield
        finally:
            _deadline.clear()
            self._enter(_NO_ITEM)

    def close(self) -> None:
        """When the unit is done."""
        self._note.delete()

    def _end_process(self, name: str, limit: float) -> None:
        self._attempts.hung[name] = f"took longer than {limit:.0f} seconds, which --time-limit allows"
        self._attempts.current = None
        try:
            self._write()
        finally:
            os._exit(1)

    def _count_death(self, name: str) -> None:
        self._attempts.deaths[name] = self._attempts.deaths.get(name, 0) + 1

    def _enter(self, name: str) -> None:
        self._attempts.current = name
        self._write()

    def _write(self) -> None:
        self._note.write(json.dumps(vars(self._attempts)).encode())


class _Deadline:
    """Of the item that this process works on, kept by one thread; and by the kernel, where that thread cannot run."""

    def __init__(self) -> None:
        self._due: tuple[float, Callable[[], None]] | None = None
        self._thread: threading.Thread | None = None

    def set(self, seconds: float, end: Callable[[], None]) -> None:
        """Calls `end` when so much time has passed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="deadline")
            self._thread.start()
        self._due = time.monotonic() + seconds, end
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)  # SIGALRM, which ends the process

    def clear(self) -> None:
        self._due = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while True:
            time.sleep(TICK)
            due = self._due
            if due is not None and time.monotonic() > due[0]:
                due[1]()


_deadline = _Deadline()
_NO_ITEM = ""
