"""The process from which those that work or read for this one are forked, so that none of them imports for itself."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def start_forkserver(*packages: str) -> None:
    """Starts multiprocessing's fork server, if it does not run yet; it imports what this process has of these packages.

    That must be nothing that asks for GPUs while it is imported, if those that are forked are to use one. They have one
    thread each, so that their number changes no rounding, and leave it to this process to end them: a terminal sends
    an interrupt to them, too.
    """
    names = [name for name in sys.modules if name.split(".")[0] in packages]
    multiprocessing.set_forkserver_preload(names)
    with interrupts_wait():
        resource_tracker.ensure_running()  # which the server needs, and which lets interrupts through again
    before = os.environ.copy()
    os.environ.update(_ONE_THREAD)
    try:
        with interrupts_wait():
            forkserver.ensure_running()
    finally:
        for name in _ONE_THREAD:
            os.environ.pop(name)
        os.environ.update(before)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """An interrupt comes to this thread afterwards, and never to the threads and processes that it starts meanwhile.

    Nor does SIGUSR1, by which a scheduler that stops a run tells all its processes.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
