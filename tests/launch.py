"""Running the project's programs as a user does, in processes of their own."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = REPOSITORY / "scripts"
TIME_LIMIT = 600
"""Seconds for a program."""


class Forked:
    """A process that `program_server` forks, of a program with its arguments and its environment."""

    def __init__(self, program: Path, arguments: Sequence[object], environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = Path(self._folder.name)
        job = {
            "program": str(program), "arguments": [*map(str, arguments)], "environment": environment,
            "folder": os.getcwd(), "files": str(self._files),
        }  # fmt: skip
        self._server = _program_server()
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        self.pid = int(wait_for(lambda: self._read("pid")))

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        code = self._read("code")
        return int(code) if code else None

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> tuple[int, str, str]:
        """To its end: its return code, what it printed and its errors."""
        try:
            wait_for(lambda: self.returncode is not None, seconds)
        except AssertionError:
            self.send_signal(signal.SIGKILL)
            raise
        return int(self._read("code")), self._read("out"), self._read("err")

    def _read(self, name: str) -> str:
        assert self._server.poll() is None, "the server of programs has ended"
        path = self._files / name
        return path.read_text() if path.exists() else ""


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs scripts/NAME to its end, without a GPU, and returns what it printed."""
    process = Forked(SCRIPTS / name, arguments, cpu_environment({}))
    return subprocess.CompletedProcess([name, *arguments], *process.wait(TIME_LIMIT))


def run_script_afresh(
    name: str, *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """The same in an interpreter of its own, as a user does."""
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    own = cpu_environment(environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=own, timeout=TIME_LIMIT)


def start(*command: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a Python program without a GPU, as a terminal does: its signals are its own, and its children's.

    A shell that runs the tests in the background lets them ignore interrupts, and they would pass that on.
    """
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=cpu_environment(environment or {}), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(condition: Callable[[], T], seconds: float = 120) -> T:
    """What the condition gives when it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {seconds:.0f} seconds"
        time.sleep(0.01)
    return found


def start_ranks(
    num_ranks: int, *arguments: object, program: Path = SCRIPTS / "train.py", own: dict[int, list[str]] | None = None
) -> list[Forked]:
    """Starts a program on this many CPU ranks, one thread each, without a launcher; `own` are arguments of one rank."""
    return [
        Forked(program, [*arguments, *(own or {}).get(rank, [])], environment)
        for rank, environment in enumerate(rank_environments(num_ranks))
    ]


def ends(processes: list[Forked], seconds: float = 120) -> list[tuple[int, str]]:
    """How each ended, within so many seconds, and all that it said."""
    return [(code, out + errors) for code, out, errors in [process.wait(seconds) for process in processes]]


def rank_environments(num_ranks: int) -> list[dict[str, str]]:
    common = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
    }
    return [cpu_environment({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(num_ranks)]


def run_ranks(num_ranks: int, program: Path, *arguments: object) -> str:
    """Runs a program as `start_ranks` does, to its end, and returns what the first rank said."""
    codes, said = zip(*ends(start_ranks(num_ranks, *arguments, program=program), TIME_LIMIT), strict=True)
    assert codes == (0,) * num_ranks, "\n".join(said)
    return said[0]


def train(num_ranks: int, *arguments: object) -> None:
    """Runs scripts/train.py on this many CPU ranks, to its end."""
    run_ranks(num_ranks, SCRIPTS / "train.py", *arguments)


@cache
def _program_server() -> subprocess.Popen[str]:
    (environment,) = rank_environments(1)
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/program_server.py")], env=environment, start_new_session=True,
        stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(os.killpg, server.pid, signal.SIGKILL)
    return server


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def metrics(run: Path) -> list[dict[str, Any]]:
    """A row for each step."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of every step, which must be there once and in order."""
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def overrides(settings: Sequence[str], **changes: object) -> list[str]:
    return [*settings, *(f"{key.replace('__', '.')}={value}" for key, value in changes.items())]


def cpu_environment(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", **changes}
