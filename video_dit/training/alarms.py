"""Steps that must not be taken: losses that are spikes or not finite, with the samples they come from."""

import json
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from torch import Tensor

from video_dit.config import TrainingConfig
from video_dit.contracts import Batch
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder, read_rows
from video_dit.training.checkpoint import Checkpoints
from video_dit.training.engine import Engine


class Shown(NamedTuple):
    """The samples of one micro-batch on this rank, with the loss of each: [B]."""

    batch: Batch
    losses: Tensor

    def rows(self) -> list[dict[str, object]]:
        """Of each sample: its id, the seed of its draws, its place in the step's batch, its loss; JSON."""
        numbers = (self.batch.seeds.tolist(), self.batch.places[:, 0].tolist(), self.losses.tolist())
        return [
            {"id": name, "seed": seed, "place": place, "loss": finite_or_none(loss)}
            for name, seed, place, loss in zip(self.batch.ids, *numbers, strict=True)
        ]


class Alarms:
    """Judges the loss of each step before it is taken. Every rank calls every method, and all judge alike.

    Args:
        run: where alarms are written.
        engine: of the run.
        checkpoints: of the run.
        training: says what a spike is, and what then.
        last_step: that the run goes on after, whose losses and those before it are read back.
    """

    def __init__(
        self, run: RunFolder, engine: Engine, checkpoints: Checkpoints, training: TrainingConfig, last_step: int
    ) -> None:
        self._run = run
        self._engine = engine
        self._checkpoints = checkpoints
        self._training = training
        self._losses = deque(_losses_before(run.metrics, last_step), maxlen=training.spike_window)
        self._in_a_row = 0

    def problem_of(self, loss: float) -> str | None:
        """What is wrong with a loss, the mean over all samples of a step; None: nothing."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        factor, full = self._training.spike_factor, len(self._losses) == self._losses.maxlen
        if factor > 0 and full and loss > factor * (usual := median(self._losses)):
            return (
                f"the loss is {loss:.4g}, {loss / usual:.3g} times the median {usual:.4g} of {len(self._losses)} steps"
            )
        return None

    def settle(self, step: int, loss: float, problem: str | None, shown: Sequence[Shown]) -> None:
        """After the engine's step and before the averages': remembers its loss, or that it was not taken, and why.

        Args:
            step: the first is step 1.
            loss: over all ranks.
            problem: of the loss.
            shown: this rank's samples.
        """
        if self._engine.step_taken:
            assert problem is None
            self._losses.append(loss)
            self._in_a_row = 0
        elif problem is not None or not self._engine.scales_loss:
            self._record(step, loss, problem or "the gradient is not finite", shown)

    def _record(self, step: int, loss: float, problem: str, shown: Sequence[Shown]) -> None:
        """Writes down a step that was not taken, and saves the state before it.

        Of several in a row the first one's state serves them all, as they changed nothing.
        """
        self._in_a_row += 1
        if self._in_a_row == 1:
            self._before = step - 1
        rows = [row for part in shown for row in part.rows()] if self._engine.is_first_of_clips else []
        samples = self._engine.of_all_ranks(rows)
        if self._engine.rank == 0:
            file = self._run.alarm(step)
            file.parent.mkdir(exist_ok=True)
            alarm = {
                "step": step,
                "problem": problem,
                "loss": finite_or_none(loss),
                "checkpoint": self._run.checkpoint(self._before).name if self._before else None,
                "samples": sorted((row for rows in samples for row in rows), key=lambda row: row["place"]),
            }
            write_atomically(file, json.dumps(alarm, indent=2) + "\n")
            print(f"step {step} is left out: {problem}; {file} names its samples", flush=True)
        if self._in_a_row == 1 and self._before > 0:  # before the first step there is nothing to save
            self._checkpoints.finish()
            if self._checkpoints.published != self._before:
                self._checkpoints.save(self._before)
        self._ends = f"{self._run.alarm(step)} has the samples of step {step}, where {problem}"

    @property
    def alarmed(self) -> bool:
        """Whether the last step was an alarm."""
        return self._in_a_row > 0

    def end_if_asked(self) -> None:
        """
        Raises:
            UserError: this is where the run stops.
        """
        if not self.alarmed:
            return
        if self._training.on_spike == "stop":
            self._checkpoints.finish()
            raise UserError(
                f"{self._ends}: the same command takes this step again, and training.on_spike=skip leaves it out"
            )
        if self._in_a_row >= self._training.max_skipped_steps:
            self._checkpoints.finish()
            raise UserError(
                f"{self._ends}: the last of {self._in_a_row} steps in a row that were left out "
                "(training.max_skipped_steps); look at their samples, or lower training.learning_rate"
            )


def finite_or_none(value: float) -> float | None:
    """For JSON, which knows no other numbers."""
    return value if math.isfinite(value) else None


def _losses_before(metrics: Path, last_step: int) -> list[float]:
    """Of the steps up to this one that were taken, as `Progress` has written them."""
    return [row["loss"] for row in read_rows(metrics) if row["step"] <= last_step and not row.get("skipped")]
