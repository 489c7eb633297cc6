"""What processes that work or read for this one need not import again, each for itself."""

import multiprocessing
import sys


def import_once(*packages: str) -> None:
    """The process that forks them imports what this one has of these packages, unless it is there already.

    It must be nothing that asks for GPUs while it is imported, if they are to use one.
    """
    names = [name for name in sys.modules if name.split(".")[0] in packages]
    multiprocessing.set_forkserver_preload(names)
