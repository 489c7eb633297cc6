"""The runs of an ablation: where they are, what of them is left to do, and doing it, several at once if asked."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import torch
from ablation_grid import Cell, Grid

from data.dataset_info import DatasetInfo
from video_dit.config import Config, dump
from video_dit.errors import UserError
from video_dit.files import try_lock, write_atomically
from video_dit.run_folder import RunFolder, step_of
from video_dit.sampling.outputs import slug

SCRIPTS = Path(__file__).resolve().parent
Command = list[str]
_CLIPS_SEED = 0
"""Of the first clip that a run is evaluated by."""


class Shards(NamedTuple):
    """Folders of shards, and what they hold."""

    data: Path
    info: DatasetInfo
    validation: Path | None
    validation_info: DatasetInfo | None


class Run(NamedTuple):
    """One seed of a cell, or of several cells that differ in name alone.

    grid, shards: say what is done of it, and with what.
    """

    cell: str
    seed: int
    config: Config
    path: Path
    grid: Grid
    shards: Shards

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def config_file(self) -> Path:
        return self.path.with_name(f"{self.path.name}.toml")

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")

    def __str__(self) -> str:
        return f"{self.cell}, seed {self.seed}"

    def is_trained(self) -> bool:
        newest = self.folder.latest_checkpoint()
        return newest is not None and step_of(newest) == self.config.training.steps

    def left(self) -> list[Command]:
        """What is to be done yet, in order."""
        grid, shards, commands = self.grid, self.shards, []
        if not self.is_trained():
            train = ["train.py", "--config", str(self.config_file), "--data", str(shards.data), "--run", str(self.path)]
            commands.append(train + (["--validation", str(shards.validation)] if shards.validation else []))
        if "shapes_accuracy" in grid.measures and (commands or not self._is_evaluated()):
            settings = ["--clips", str(grid.shapes_clips), "--seed", str(_CLIPS_SEED)]
            commands.append(["evaluate.py", "--run", str(self.path), *settings])
        return commands

    def _is_evaluated(self) -> bool:
        """As the grid asks, with its newest weights: somebody may have looked at it while it was trained."""
        if not self.folder.evaluation.exists():
            return False
        found = json.loads(self.folder.evaluation.read_text(encoding="utf-8"))
        asked = str(self.folder.averaged_weights().relative_to(self.path)), _CLIPS_SEED, self.grid.shapes_clips
        return (found.get("weights"), found.get("seed"), found["seen"]["clips"]) == asked


def runs_of(cells: Sequence[Cell], grid: Grid, shards: Shards, out: Path) -> dict[str, list[Run]]:
    """The runs of each cell, by its name. Their folders are named by config and data, so that what changes is new."""
    found: dict[str, list[Run]] = {}
    for cell in cells:
        key = _key(cell.config, shards)
        known = sorted(out.glob(f"runs/*-{key}"))  # of an earlier name
        folder = known[0] if known else out / "runs" / f"{slug(cell.name)}-{key}"
        found[cell.name] = [
            Run(cell.name, seed, cell.config.model_copy(update={"seed": seed}), folder / f"seed-{seed}", grid, shards)
            for seed in grid.seeds
        ]
    return found


def _key(config: Config, shards: Shards) -> str:
    """Of what differs from the defaults, so that a key that is added to the schema changes nothing."""
    values = config.model_dump(mode="json", exclude_defaults=True, exclude={"seed"})
    inputs = [shards.info.inputs, shards.validation_info and shards.validation_info.inputs]
    return hashlib.blake2b(json.dumps([values, inputs], sort_keys=True).encode(), digest_size=4).hexdigest()


class Place(NamedTuple):
    """Where a run computes.

    gpus: as CUDA_VISIBLE_DEVICES names them; none: on the CPU.
    threads: of each rank.
    """

    gpus: tuple[str, ...]
    threads: int

    @property
    def num_ranks(self) -> int:
        return max(1, len(self.gpus))

    def environment(self) -> dict[str, str]:
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {"DS_ACCELERATOR": "cpu"}
        return {**os.environ, **devices, "OMP_NUM_THREADS": str(self.threads)}


def places(jobs: int) -> list[Place]:
    """One for each of the runs that are done at once: its share of the GPUs, in turn, or of the CPU's threads."""
    threads = max(1, torch.get_num_threads() // jobs)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    gpus = visible if len(visible) == count and all(visible) else [str(index) for index in range(count)]
    if not gpus:
        return [Place((), threads)] * jobs
    return [Place(tuple(gpus[job::jobs]) or (gpus[job % count],), threads) for job in range(jobs)]


class _Work:
    """A run that is under way at a place."""

    def __init__(self, run: Run, place: Place, lock: IO[str]) -> None:
        self.run, self.place = run, place
        self.began = time.monotonic()
        self._lock = lock
        run.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(run.config_file, dump(run.config, whole=False))
        self._log = run.log.open("a", encoding="utf-8")
        self._start(run.left()[0])

    def _start(self, command: Command) -> None:
        self._command = command
        several = self.place.num_ranks > 1 and command[0] == "train.py"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.place.num_ranks}", "--"]
        script = [*(launcher if several else []), str(SCRIPTS / command[0]), *command[1:]]
        self._log.write(f"$ {shlex.join(command)}\n")
        self._log.flush()
        self._process = subprocess.Popen(
            [sys.executable, *script], stdout=self._log, stderr=subprocess.STDOUT, env=self.place.environment(),
            start_new_session=True, pass_fds=[self._lock.fileno()],
        )  # fmt: skip

    def has_ended(self) -> bool:
        """Nothing is left to do, or a command failed; begins the next command when one has ended well."""
        code = self._process.poll()
        left = self.run.left() if code == 0 else []
        if left and left[0] != self._command:
            self._start(left[0])
            return False
        return code is not None

    def failure(self) -> str | None:
        """Of a run that has ended, why it is not done; None: it is."""
        if not self.run.left():
            return None
        said = self.run.log.read_text(encoding="utf-8", errors="replace").split("\n$ ")[-1].strip().splitlines()
        return (
            f"{self._command[0]} ended with exit code {self._process.poll()}; {self.run.log} ends with\n    {said[-1]}"
        )

    def stop(self) -> None:
        """Lets training write a checkpoint, and waits for it."""
        self._process.terminate()
        self._process.wait()


def do_runs(runs: list[Run], jobs: int, out: Path, done: Callable[[], None]) -> list[Run]:
    """Does what is left of the runs, and says so.

    Args:
        runs: in the order in which they are begun.
        jobs: how many are done at once.
        out: the ablation's folder.
        done: called after each.

    Returns:
        those that failed.

    Raises:
        UserError: another process is at work in the folder.
    """
    free, working, failed = places(jobs), list[_Work](), list[Run]()
    seconds: list[float] = []
    with _alone(out) as lock:
        left = [run for run in runs if run.left()]
        print(f"{len(runs)} runs, {len(runs) - len(left)} of them done already", flush=True)
        waiting = iter(enumerate(left, start=1))
        try:
            while len(seconds) + len(failed) < len(left):
                while free and (following := next(waiting, None)):
                    number, run = following
                    print(f"run {number} of {len(left)}: {run}  ({run.log})", flush=True)
                    working.append(_Work(run, free.pop(0), lock))
                time.sleep(0.1)
                for work in [work for work in working if work.has_ended()]:
                    working.remove(work)
                    free.append(work.place)
                    if why := work.failure():
                        failed.append(work.run)
                        print(f"FAILED: {work.run}: {why}", flush=True)
                    else:
                        seconds.append(time.monotonic() - work.began)
                        print(_progress(work.run, seconds, len(left) - len(seconds) - len(failed), jobs), flush=True)
                    done()
        finally:
            for work in working:
                work.stop()
    return failed


def _progress(run: Run, seconds: list[float], left: int, jobs: int) -> str:
    minutes = left * sum(seconds) / len(seconds) / min(jobs, left or 1) / 60
    return f"done: {run}, in {seconds[-1]:.0f} s; {left} left, about {int(minutes // 60)}:{int(minutes % 60):02d} h"


@contextmanager
def _alone(out: Path) -> Iterator[IO[str]]:
    """A lock that the runs inherit, so that it is held also while one goes on whose ablate.py was killed."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as lock:
        if not try_lock(lock.fileno()):
            raise UserError(
                f"{out} is in use by another ablate.py, or by a run that one has left behind when it was killed: wait "
                "for it, or end it"
            )
        yield lock
