"""Training by scripts/train.py against a plain PyTorch loop around diffusers' transformer of equal size."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NamedTuple

from model_inputs import say
from model_speed import compare

from video_dit.errors import UserError
from video_dit.run_folder import RunFolder

SCRIPTS = Path(__file__).resolve().parent
TRAIN_PARTS = ("steps", "checkpoints")
WARM_UPS = 10
"""Steps that are not counted; train.py logs as many together, as it does unless told otherwise."""

STEPS_BETWEEN = 12
"""Of two checkpoints: the first half of them may still be slowed down by the writing, the others are not."""

MEASURED_STALLS = 6
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
    """Steps of each side, in turns, and how long checkpoints hold training up.

    Raises:
        UserError: training ends with a mistake of the user.
    """
    with TemporaryDirectory() as folder:
        runs = Runs(args, Path(folder))
        result: dict[str, Any] = {}
        if "steps" in args.parts:
            result["steps"] = steps_table(args, runs)
        if "checkpoints" in args.parts:
            result["checkpoints"] = stalls(runs)
    return result


class Runs:
    """Runs the two programs on one config, each time in processes of their own."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        self._folder = folder
        self._keys = [
            "--config",
            str(args.config),
            "training.optimizer=adamw",
            "training.gradient_clipping=0.0",
            *args.overrides,
        ]

    def plain(self, model: str) -> Taken:
        steps = ["--steps", str(self._args.steps)]
        printed = _output([SCRIPTS / "plain_loop.py", self._args.shards, "--model", model, *steps, *self._keys])
        result = json.loads(printed)
        return Taken(median(result["step_seconds"][WARM_UPS:]), 0.0, result["peak_memory"])

    def train(self, num_ranks: int, zero_stage: int) -> Taken:
        keys = (f"training.steps={self._args.steps}", f"training.zero_stage={zero_stage}")
        rows = self.rows(num_ranks, f"training.log_every={WARM_UPS}", *keys)
        counted = [row for row in rows if "step_seconds" in row][1:]
        seconds = median(row["step_seconds"] for row in counted)
        return Taken(seconds, median(row["data_wait"] for row in counted), max(row["peak_memory"] for row in counted))

    def rows(self, num_ranks: int, *keys: str) -> list[dict[str, Any]]:
        """What a run says of its steps."""
        run = RunFolder(Path(mkdtemp(dir=self._folder)))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}", "--"]
        program = [SCRIPTS / "train.py", "--data", self._args.shards, "--run", run.path]
        _output([*launcher, *program, *self._keys, *keys])
        return [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]


def _output(command: Sequence[object]) -> str:
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    if result.returncode != 0:
        raise UserError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stderr}")
    return result.stdout


def steps_table(args: argparse.Namespace, runs: Runs) -> list[dict[str, Any]]:
    """A row for each side, of the medians of the rounds."""
    sides = [*product(args.ranks, args.zero_stages)]
    plain: dict[str, list[Taken]] = {THEIRS: [], PLAIN: []}
    ours: dict[tuple[int, int], list[Taken]] = {side: [] for side in sides}
    for number in range(1, args.repeats + 1):
        say(f"round {number} of {args.repeats}")
        plain[THEIRS].append(runs.plain("diffusers"))
        plain[PLAIN].append(runs.plain("ours"))
        for side in sides:
            ours[side].append(runs.train(*side))
    rows = [_row(name, taken, plain) for name, taken in plain.items()]
    for (num_ranks, stage), taken in ours.items():
        name = f"train.py, {num_ranks} rank{'s'[: num_ranks > 1]}, ZeRO {stage}"
        rows.append(_row(name, taken, plain) | {"num_ranks": num_ranks, "zero_stage": stage})
    return rows


def _row(name: str, taken: Sequence[Taken], plain: dict[str, list[Taken]]) -> dict[str, Any]:
    seconds = [one.seconds for one in taken]
    return {
        "side": name,
        "seconds": median(seconds),
        "data_wait": median(one.data_wait for one in taken),
        "peak_memory": max(one.memory for one in taken),
        "against": {side: compare(seconds, [one.seconds for one in of_side]) for side, of_side in plain.items()},
    }


def stalls(runs: Runs) -> dict[str, Any]:
    """What each of several checkpoints costs: the pause, and what the steps after it take more than later ones."""
    steps = (MEASURED_STALLS + 1) * STEPS_BETWEEN
    rows = runs.rows(1, "training.log_every=1", f"training.steps={steps}", f"training.checkpoint_every={STEPS_BETWEEN}")
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
