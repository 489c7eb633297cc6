"""As a program: forks other programs of the project, as importing what they need takes seconds for each.

Reads jobs from its input, as JSON, one for each process: the path of a program, its arguments, its environment, the
folder where it runs, and one for its files: out and err, what it prints and its errors, pid, and when it ends code.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import deepspeed.ops
import torch._dynamo  # noqa: F401

import data.engine
import data.on_the_fly
import data.preprocess  # noqa: F401
import video_dit.models.adapters
import video_dit.sampling.pipeline
import video_dit.training.loop  # noqa: F401

deepspeed.ops.__compatible_ops__  # noqa: B018  # made when it is first looked at, by trying the compiler


def run(program: str, arguments: list[str], environment: dict[str, str], files: Path) -> None:
    """As if it were a process that has just begun; does not return."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate((os.devnull, files / "out", files / "err")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore interrupts
    sys.argv = [program, *arguments]
    sys.path[0] = os.path.dirname(program)
    try:
        runpy.run_path(program, run_name="__main__")
        leave(0)
    except SystemExit as end:
        leave(end.code or 0)


def leave(code: int) -> None:
    """Ends as an interpreter does, without taking apart what was imported: that takes longer than many a program."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def write(path: Path, number: int) -> None:
    """Whoever sees the file sees it whole."""
    path.with_suffix(".new").write_text(str(number))
    path.with_suffix(".new").replace(path)


def supervise(job: dict[str, Any]) -> None:
    """Runs a process to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    files = Path(job["files"])
    process = os.fork()
    if process == 0:
        os.chdir(job["folder"])
        run(job["program"], job["arguments"], job["environment"], files)
    write(files / "pid", process)
    write(files / "code", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that supervise
    gc.freeze()  # else each child looks through all that was imported, and copies it
    for line in sys.stdin:
        if os.fork() == 0:
            supervise(json.loads(line))
            os._exit(0)
