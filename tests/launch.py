"""Running the project's programs as a user does, in processes of their own."""

import atexit
import json
import os
import select
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
TIME_LIMIT = 600
"""Seconds for a program."""


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs scripts/NAME to its end, without a GPU, and returns what it printed; see `program_server`."""
    (result,) = _run(name, arguments, [cpu_environment({})])
    return result


def run_script_afresh(
    name: str, *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """The same in an interpreter of its own, as a user does."""
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, arguments)]
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
    outputs = [process.communicate(timeout=TIME_LIMIT)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * num_ranks, "\n".join(outputs)
    return outputs[0]


def train(num_ranks: int, *arguments: object) -> None:
    """Runs scripts/train.py on this many CPU ranks, to its end; see `program_server`."""
    results = _run("train.py", arguments, rank_environments(num_ranks))
    said = "\n".join(result.stdout + result.stderr for result in results)
    assert [result.returncode for result in results] == [0] * num_ranks, said


def _run(
    name: str, arguments: Sequence[object], environments: Sequence[dict[str, str]]
) -> list[subprocess.CompletedProcess]:
    """A process for each environment, all to their ends.

    Raises:
        TimeoutError: they have not come to it in `TIME_LIMIT`.
    """
    server = _program_server()
    with tempfile.TemporaryDirectory() as folder:
        files = [[f"{folder}/{index}-{kind}" for kind in ("out", "err")] for index, _ in enumerate(environments)]
        processes = [(environment, *of_one) for environment, of_one in zip(environments, files, strict=True)]
        job = {"program": name, "arguments": [*map(str, arguments)], "folder": os.getcwd(), "processes": processes}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], TIME_LIMIT)[0]:
            _end(server)
            _program_server.cache_clear()
            raise TimeoutError(f"{name} has run for more than {TIME_LIMIT} seconds")
        codes = json.loads(server.stdout.readline())
        printed = [[Path(path).read_text() for path in of_one] for of_one in files]
    return [
        subprocess.CompletedProcess([name, *arguments], code, *of_one)
        for code, of_one in zip(codes, printed, strict=True)
    ]


@cache
def _program_server() -> subprocess.Popen[str]:
    (environment,) = rank_environments(1)
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/program_server.py")], env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)


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
