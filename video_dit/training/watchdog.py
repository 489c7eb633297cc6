"""Ends a run that hangs, and says which rank is at which step."""

import os
import socket
import sys
import time
from threading import Event, Thread

from torch.distributed import Store

ANSWERS = 5.0
"""Seconds in which ranks that wait for another say so; one that does not is stopped or gone."""


class Watchdog:
    """Watches over the steps of this rank, from a thread of its own, as collectives wait for ever.

    Args:
        rank, num_ranks: this one, and how many.
        store: of all ranks.
        time_limit: seconds for a step; 0: nothing is watched.
    """

    def __init__(self, rank: int, num_ranks: int, store: Store, time_limit: float) -> None:
        self._rank = rank
        self._num_ranks = num_ranks
        self._store = store
        self._time_limit = time_limit
        self._closed = Event()
        self.enter(0, "starting")
        if time_limit > 0:
            Thread(target=self._watch, daemon=True, name="watchdog").start()

    def enter(self, step: int, doing: str) -> None:
        """This rank begins with a part of a step, the first of which is step 1."""
        self._place = f"step {step}, {doing}"
        self._since = time.monotonic()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._time_limit / 4)):
            if time.monotonic() - self._since > self._time_limit:
                self._end()

    def _end(self) -> None:
        teller = Thread(target=self._tell, daemon=True)  # as the store hangs too where its own rank does
        teller.start()
        teller.join(2 * ANSWERS)
        os._exit(1)

    def _tell(self) -> None:
        mine = f"rank {self._rank} on {socket.gethostname()} ({self._place})"
        print(
            f"error: {mine} has waited for more than {self._time_limit:g} seconds, which training.step_time_limit "
            "allows; the same command goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        self._store.set(f"waiting/{self._rank}", self._place)
        time.sleep(ANSWERS)
        for rank in (*range(self._rank), *range(self._rank + 1, self._num_ranks)):
            key = f"waiting/{rank}"
            told = f"waits too: {self._store.get(key).decode()}" if self._store.check([key]) else "does not answer"
            print(f"rank {rank} {told}", file=sys.stderr, flush=True)
