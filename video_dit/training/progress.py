"""What a run says while it goes: a line on the screen, a line per step on disk, curves in TensorBoard."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder


class Stopwatch:
    """Time since the last reading, and how much of it was spent waiting."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0

    def waiting(self, iterator: Iterator[Any]) -> Any:
        """The iterator's next item; the time that it takes counts as waiting."""
        start = time.perf_counter()
        item = next(iterator)
        self._waited += time.perf_counter() - start
        return item

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the share of them spent waiting."""
        now = time.perf_counter()
        seconds, waited = now - self._start, self._waited
        self._start, self._waited = now, 0.0
        return seconds, waited / seconds


class Progress:
    """The log of rank 0."""

    def __init__(self, run: RunFolder, first_step: int, num_steps: int) -> None:
        self._num_steps = num_steps
        for file in (run.metrics, run.validation):
            _forget_steps_after(file, first_step)
        self._metrics = run.metrics.open("a", encoding="utf-8")
        self._validation = run.validation
        self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=first_step + 1)

    def log(
        self,
        last_step: int,
        losses: list[float],
        by_t: list[float | None],
        learning_rate: float,
        num_tokens: int,
        seconds: float,
        data_wait: float,
    ) -> None:
        """Records the steps up to `last_step`, whose losses these are, and prints one line about them.

        `by_t` has the mean loss of these steps in each part of [0, 1] that t can be in, None where it was not;
        `num_tokens` of video and text went through them, padding among them.
        """
        first_step = last_step - len(losses) + 1
        speed = len(losses) / seconds
        for step, loss in enumerate(losses, start=first_step):
            row = {"step": step, "loss": loss} | ({"loss_by_t": by_t} if step == last_step else {})
            self._metrics.write(json.dumps(row) + "\n")
            self._tensorboard.add_scalar("loss", loss, step)
        self._plot_by_t("loss_by_t", by_t, last_step)
        self._metrics.flush()
        self._tensorboard.add_scalar("learning_rate", learning_rate, last_step)
        self._tensorboard.add_scalar("speed/steps_per_second", speed, last_step)
        self._tensorboard.add_scalar("speed/data_wait", data_wait, last_step)
        minutes, remainder = divmod(round((self._num_steps - last_step) / speed), 60)
        print(
            f"step {last_step:>{len(str(self._num_steps))}}/{self._num_steps}  loss {sum(losses) / len(losses):.4f}  "
            f"{speed:.2f} steps/s  {num_tokens / seconds:,.0f} tokens/s  data wait {data_wait:.1%}  "
            f"{minutes}:{remainder:02d} left",
            flush=True,
        )

    def log_validation(self, step: int, by_t: list[float]) -> None:
        """Records the loss on held-out clips, whose mean is over the parts of [0, 1], and prints a line about it."""
        mean = sum(by_t) / len(by_t)
        with self._validation.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": mean, "loss_by_t": by_t}) + "\n")
        self._tensorboard.add_scalar("validation/loss", mean, step)
        self._plot_by_t("validation_by_t", by_t, step)
        print(
            f"validation after step {step}: loss {mean:.4f}, from {by_t[0]:.4f} near the data to {by_t[-1]:.4f}",
            flush=True,
        )

    def _plot_by_t(self, tag: str, by_t: Sequence[float | None], step: int) -> None:
        for index, loss in enumerate(by_t):
            if loss is not None:
                low, high = index / len(by_t), (index + 1) / len(by_t)
                self._tensorboard.add_scalar(f"{tag}/{low:.2f}-{high:.2f}", loss, step)

    def close(self) -> None:
        self._metrics.close()
        self._tensorboard.close()


def _forget_steps_after(file: Path, step: int) -> None:
    """A run that was killed had gone on past its last checkpoint; those steps will be taken again."""
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_atomically(file, "".join(kept))
