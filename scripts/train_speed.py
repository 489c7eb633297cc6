"""Training by scripts/train.py against a plain PyTorch loop around diffusers' transformer of equal size."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NamedTuple

from model_inputs import say
from model_speed import compare
from turns import Side

from video_dit.errors import UserError
from video_dit.run_folder import RunFolder, read_rows

SCRIPTS = Path(__file__).resolve().parent
TRAIN_PARTS = ("steps", "checkpoints")
STEPS_BETWEEN = 12
"""Of two checkpoints: the first half of them may still be slowed down by the writing, the others are not."""

MEASURED_STALLS = 6
ENDLESS = 10**9
"""Steps: the sides are ended when all turns are taken."""

THEIRS, PLAIN = "diffusers in a plain loop", "ours in a plain loop"


class Taken(NamedTuple):
    """
    seconds: of a step.
    data_wait: their share that is waiting for data.
    memory: bytes at the peak, of one process.
    """

    seconds: float
    data_wait: float
    memory: int


def measure_training(args: argparse.Namespace) -> dict[str, Any]:
    """Steps of all sides, which take turns, and how long checkpoints hold training up.

    Raises:
        UserError: training ends with a mistake of the user.
    """
    result: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        runs = Runs(args, Path(folder))
        if "steps" in args.parts:
            result["steps"] = steps_table(args, runs)
        if "checkpoints" in args.parts:
            result["checkpoints"] = stalls(runs.to_the_end)
    return result


class Runs:
    """Starts the two programs on one config."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        self._folder = folder
        self._keys = [
            "--config",
            str(args.config),
            "training.optimizer=adamw",
            "training.gradient_clipping=0.0",
            f"training.compile={str(args.compile).lower()}",
            *args.overrides,
        ]
        self._endless = [
            f"training.log_every={args.steps}",
            f"training.steps={ENDLESS}",
            f"training.checkpoint_every={ENDLESS}",
            "training.step_time_limit=0",
        ]

    def plain(self, model: str, *keys: str) -> Side:
        program = [SCRIPTS / "plain_loop.py", self._args.shards, "--model", model]
        return Side([*program, *self._keys, *self._endless, *keys], 1, self._new_folder())

    def train(self, num_ranks: int, zero_stage: int) -> Side:
        program, run = self._program()
        command = [*program, *self._endless, f"training.zero_stage={zero_stage}"]
        return Side(command, num_ranks, self._new_folder(), run.metrics)

    def to_the_end(self, *keys: str) -> list[dict[str, Any]]:
        """What a run on one rank says of its steps."""
        program, run = self._program()
        command = [sys.executable, *map(str, program), *keys]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise UserError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
        return read_rows(run.metrics)

    def _program(self) -> tuple[list[object], RunFolder]:
        run = RunFolder(self._new_folder())
        return [SCRIPTS / "train.py", "--data", self._args.shards, "--run", run.path, *self._keys], run

    def _new_folder(self) -> Path:
        return Path(mkdtemp(dir=self._folder))


def steps_table(args: argparse.Namespace, runs: Runs) -> list[dict[str, Any]]:
    """A row for each side, of the medians of its turns."""
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, start in _starts(args, runs).items():
            say(f"starting: {name}")
            sides[name] = stack.enter_context(start())
            sides[name].take_turn()
        taken: dict[str, list[Taken]] = {name: [] for name in sides}
        for number in range(1, args.repeats + 1):
            say(f"round {number} of {args.repeats}")
            for name, side in sides.items():
                row = side.take_turn()
                taken[name].append(Taken(row["step_seconds"], row.get("data_wait", 0.0), row["peak_memory"]))
    return [_row(name, turns, taken) for name, turns in taken.items()]


def _starts(args: argparse.Namespace, runs: Runs) -> dict[str, Callable[[], Side]]:
    """What starts each side."""
    starts = {THEIRS: partial(runs.plain, "diffusers", "training.compile=false")}
    if args.compile:
        starts["diffusers, compiled blocks"] = partial(runs.plain, "diffusers")
    starts[PLAIN] = partial(runs.plain, "ours")
    for num_ranks, stage in product(args.ranks, args.zero_stages):
        name = f"train.py, {num_ranks} rank{'s'[: num_ranks > 1]}, ZeRO {stage}"
        starts[name] = partial(runs.train, num_ranks, stage)
    return starts


def _row(name: str, turns: Sequence[Taken], taken: dict[str, list[Taken]]) -> dict[str, Any]:
    seconds = [turn.seconds for turn in turns]
    return {
        "side": name,
        "seconds": median(seconds),
        "data_wait": median(turn.data_wait for turn in turns),
        "peak_memory": max(turn.memory for turn in turns),
        "against": {side: compare(seconds, [turn.seconds for turn in taken[side]]) for side in (THEIRS, PLAIN)},
    }


def stalls(run: Callable[..., list[dict[str, Any]]]) -> dict[str, Any]:
    """What each of several checkpoints costs: the pause, and what the steps after it take more than later ones.

    Args:
        run: trains with some keys, and gives what the run says of each step.
    """
    steps = (MEASURED_STALLS + 1) * STEPS_BETWEEN
    rows = run("training.log_every=1", f"training.steps={steps}", f"training.checkpoint_every={STEPS_BETWEEN}")
    seconds, calm = [], []
    for begin in range(STEPS_BETWEEN, steps, STEPS_BETWEEN):
        after = rows[begin : begin + STEPS_BETWEEN]
        of_steps = [row["step_seconds"] for row in after]
        half = STEPS_BETWEEN // 2
        calm.append(median(of_steps[half:]))
        seconds.append(after[0]["paused_seconds"] + sum(of_steps[:half]) - half * calm[-1])
    return {"seconds": seconds, "step_seconds": calm}


def training_table(result: dict[str, Any]) -> str:
    lines = []
    if "steps" in result:
        sides = {THEIRS: "diffusers'", PLAIN: "our plain loop's"}
        heads = "".join(f"{f'of {name}':>20}{'min to max':>16}" for name in sides.values())
        lines.append(f"{'':28}{'step':>9}{'data wait':>11}{'memory':>10}{heads}")
        for row in result["steps"]:
            ratios = "".join(
                f"{against['ratio']:>20.3f}{against['ratio_min']:>8.3f} to {against['ratio_max']:.3f}"
                for against in (row["against"][side] for side in sides)
            )
            lines.append(
                f"{row['side']:28}{1e3 * row['seconds']:>6.0f} ms{row['data_wait']:>11.1%}"
                f"{row['peak_memory'] / 2**20:>6.0f} MiB{ratios}"
            )
    if "checkpoints" in result:
        seconds, steps = result["checkpoints"]["seconds"], result["checkpoints"]["step_seconds"]
        of_steps = sorted(a / b for a, b in zip(seconds, steps, strict=True))
        lines.append(
            f"a checkpoint holds training up for {1e3 * median(seconds):.0f} ms: {median(of_steps):.2f} steps "
            f"({of_steps[0]:.2f} to {of_steps[-1]:.2f}, {len(seconds)} checkpoints)"
        )
    return "\n".join(lines)
