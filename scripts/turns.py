"""Programs that train in turns: all but one stand still, so that neighbours in time meet the same machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from video_dit.errors import UserError

POLLS = 0.01
"""Seconds between two looks at the rows of the program whose turn it is."""


class Side:
    """A program on several ranks, each a process with a session of its own; it stands still between its turns.

    Args:
        command: of the program and its arguments, the same for all ranks.
        num_ranks: how many run it.
        folder: for what they print.
        rows: file into which they write a JSON object per line, with "step_seconds" in the last of each few steps;
            None: they print them.
    """

    def __init__(self, command: Sequence[object], num_ranks: int, folder: Path, rows: Path | None = None) -> None:
        self._command = [sys.executable, *map(str, command)]
        self._errors = folder / "stderr"
        self._rows, self._num_lines = rows or folder / "stdout", 0
        with (folder / "stdout").open("w") as output, self._errors.open("w") as errors:
            self._processes = [
                subprocess.Popen(self._command, env=environment, stdout=output, stderr=errors, start_new_session=True)
                for environment in _environments(num_ranks)
            ]
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> "Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def take_turn(self) -> dict[str, Any]:
        """Goes on until a row is written that was begun and ended in this turn, and gives that.

        Raises:
            UserError: the program ends.
        """
        self._new_rows()  # which were written before the standstill
        self._signal(signal.SIGCONT)
        rows: list[dict[str, Any]] = []
        while len(rows) < 2:  # the first counts the standstill
            time.sleep(POLLS)
            rows += self._new_rows()
            if any(process.poll() is not None for process in self._processes):
                raise UserError(f"{' '.join(self._command)} has ended:\n{self._errors.read_text(encoding='utf-8')}")
        self._signal(signal.SIGSTOP)
        return rows[1]

    def _new_rows(self) -> list[dict[str, Any]]:
        written = self._rows.read_text(encoding="utf-8") if self._rows.exists() else ""
        lines = written[: written.rfind("\n") + 1].splitlines()
        new, self._num_lines = lines[self._num_lines :], len(lines)
        return [row for row in map(json.loads, new) if "step_seconds" in row]

    def _signal(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, number)


def _environments(num_ranks: int) -> list[dict[str, str]]:
    """What torchrun tells ranks on one machine. It does not start these, as it would miss its own heart-beats."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        {**os.environ, **{name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}}
        for rank in range(num_ranks)
    ]
