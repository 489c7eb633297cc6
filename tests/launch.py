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


def run_script(name: str, *arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs scripts/NAME to its end, without a GPU, and returns what it printed."""
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=cpu_environment(environment or {}), timeout=600)


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


def start_ranks(num_ranks: int, *arguments: object, **options: Any) -> list[subprocess.Popen[str]]:
    """Starts scripts/train.py as `start_program` does."""
    return start_program(num_ranks, REPOSITORY / "scripts/train.py", *arguments, **options)


def start_program(
    num_ranks: int,
    program: Path,
    *arguments: object,
    own: dict[int, list[str]] | None = None,
    prepare: dict[int, Callable[[], None]] | None = None,
) -> list[subprocess.Popen[str]]:
    """Starts a program on this many CPU ranks, one thread each, without a launcher in between.

    `own` are further arguments of a rank, and `prepare` is called in its process before it starts.
    """
    command = [sys.executable, str(program), *map(str, arguments)]
    return [
        subprocess.Popen(
            command + (own or {}).get(rank, []),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=(prepare or {}).get(rank),
        )
        for rank, environment in enumerate(rank_environments(num_ranks))
    ]


def rank_environments(num_ranks: int) -> list[dict[str, str]]:
    common = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
    }
    return [cpu_environment({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(num_ranks)]


def run_program(num_ranks: int, program: Path, *arguments: object) -> str:
    """Runs a program as `start_program` does, to its end, and returns what the first rank printed."""
    processes = start_program(num_ranks, program, *arguments)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * num_ranks, "\n".join(outputs)
    return outputs[0]


def train(num_ranks: int, *arguments: object) -> None:
    """Runs scripts/train.py on this many CPU ranks, to its end; see `rank_server`."""
    server = _rank_server()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(rank) for rank in range(num_ranks)]
        ranks = [*zip(rank_environments(num_ranks), map(str, outputs), strict=True)]
        server.stdin.write(json.dumps({"arguments": [*map(str, arguments)], "ranks": ranks}) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        assert codes == [0] * num_ranks, "\n".join(output.read_text() for output in outputs)


@cache
def _rank_server() -> subprocess.Popen[str]:
    (environment,) = rank_environments(1)
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/rank_server.py")], env=environment, start_new_session=True, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
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
