"""Steps whose loss or gradient is not what it should be: noticed by all ranks alike, passed over, written down."""

import json
from collections import deque
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from video_dit.config import TrainingConfig
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder

REMEMBERED = 50
"""Steps whose mean loss a spike is a multiple of."""

MAX_IN_A_ROW = 10
"""Steps that are passed over one after another; more than that are no accident."""


def finite(number: float) -> float | None:
    """JSON knows no other numbers."""
    return number if isfinite(number) else None


class SeenSample(NamedTuple):
    """A sample of a step: its id, the seed of its draws, and its loss."""

    id: str
    seed: int
    loss: float


class LossWatch:
    """Decides which steps are passed over.

    Args:
        config: says what a spike is, and what is done.

    Attributes:
        recent: losses of the last steps that were taken, up to `REMEMBERED` of them.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._in_a_row = 0
        self.recent: deque[float] = deque(maxlen=REMEMBERED)

    def problem(self, loss: float) -> str | None:
        """What is wrong with a step's loss, or None. Asked before its gradient is used."""
        if not isfinite(loss):
            return f"the loss is {loss}"
        factor, full = self._config.spike_factor, len(self.recent) == REMEMBERED
        usual = sum(self.recent) / REMEMBERED
        if factor is not None and full and loss > factor * usual:
            return f"the loss is {loss:.4g}, and the mean of the {REMEMBERED} steps before is {usual:.4g}"
        return None

    def taken(self, loss: float) -> None:
        """A step was good."""
        self._in_a_row = 0
        self.recent.append(loss)

    def must_stop(self) -> bool:
        """Whether the run ends with the step that was passed over just now."""
        self._in_a_row += 1
        return self._config.bad_step == "stop" or self._in_a_row > MAX_IN_A_ROW


def record(run: RunFolder, step: int, rank: int, problem: str, samples: Sequence[SeenSample]) -> None:
    """Writes down a rank's samples of the step after `step` others.

    That step's draws are functions of these seeds, and its order one of the step: going on from a checkpoint of at most
    `step` steps takes it again, exactly.
    """
    run.alarms.mkdir(exist_ok=True)
    rows = [{**sample._asdict(), "loss": finite(sample.loss)} for sample in samples]
    values = {"step": step + 1, "rank": rank, "problem": problem, "samples": rows}
    write_atomically(run.alarms / f"step-{step + 1:06d}-rank-{rank:05d}.json", json.dumps(values, indent=2) + "\n")


def stopped(run: RunFolder, step: int, problem: str) -> UserError:
    """What ends a run at the step after `step` others, whose checkpoint is there."""
    return UserError(
        f"step {step + 1} was not taken: {problem}. {run.alarms} names its samples. The same command takes it again, "
        f"from the checkpoint of step {step}; training.bad_step=skip passes over up to {MAX_IN_A_ROW} such steps in a "
        "row; training.learning_rate or training.gradient_clipping may be too high"
    )
