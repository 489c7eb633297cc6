"""What a run says while it goes: a line on the screen, a line per step on disk, curves in TensorBoard."""

import json
import resource
import time
from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder
from video_dit.training.alarms import finite


class Work(NamedTuple):
    """What was done, over all ranks: clips, tokens of video and text, and operations as MFU counts them."""

    clips: int = 0
    tokens: int = 0
    flops: int = 0

    def plus(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Step(NamedTuple):
    """What a step was.

    loss: the mean over its samples, of all ranks.
    gradient_norm: L2, before clipping; not finite if the step was passed over.
    by_bin: of this rank's samples; see `BatchLoss`. Nothing of a step that was passed over.
    work: over all ranks.
    problem: why it was passed over; None: it was taken.
    """

    loss: float
    gradient_norm: float
    by_bin: Tensor
    work: Work
    problem: str | None


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
    """The log of rank 0.

    Args:
        run: where it is kept.
        first_step, num_steps: those that are done, and all.
        peak_flops: of all ranks together, FLOP/s.
    """

    def __init__(self, run: RunFolder, first_step: int, num_steps: int, peak_flops: float) -> None:
        self._num_steps = num_steps
        self._peak_flops = peak_flops
        for file in (run.metrics, run.validation):
            _forget_steps_after(file, first_step)
        self._metrics = run.metrics.open("a", encoding="utf-8")
        self._validation = run.validation
        self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=first_step + 1)

    def log(
        self,
        last_step: int,
        steps: Sequence[Step],
        by_t: Sequence[float | None],
        learning_rate: float,
        seconds: float,
        data_wait: float,
    ) -> None:
        """Records the steps up to `last_step`, and prints one line about them.

        Args:
            last_step: the number of the last of them.
            steps: one or more.
            by_t: the mean loss of these steps in each part of [0, 1] that t can be in, None where it was not.
            learning_rate: of the last.
            seconds, data_wait: how long they took, and the share of that in which the first rank waited for data.
        """
        self._plot_by_t("loss_by_t", by_t, last_step)
        work = Work(*map(sum, zip(*(step.work for step in steps), strict=True)))
        speeds = {
            "seconds_per_step": seconds / len(steps),
            "clips_per_second": work.clips / seconds,
            "tokens_per_second": work.tokens / seconds,
            "flops_per_second": work.flops / seconds,
            "mfu": work.flops / seconds / self._peak_flops,
            "data_wait": data_wait,
        }
        of_window = {"learning_rate": learning_rate, **speeds, "peak_memory": _peak_memory()}
        for number, step in enumerate(steps, start=last_step - len(steps) + 1):
            row = {"step": number, "loss": finite(step.loss), "gradient_norm": finite(step.gradient_norm)}
            if number == last_step:
                row |= {"loss_by_t": by_t, **of_window}
            self._metrics.write(json.dumps(row) + "\n")
            self._tensorboard.add_scalar("loss", step.loss, number)
            self._tensorboard.add_scalar("gradient_norm", step.gradient_norm, number)
        self._metrics.flush()
        for name, value in of_window.items():
            self._tensorboard.add_scalar(f"speed/{name}" if name in speeds else name, value, last_step)
        taken = [step.loss for step in steps if step.problem is None]
        loss = sum(taken) / len(taken) if taken else nan
        passed_over = f"{len(steps) - len(taken)} passed over  " if len(taken) < len(steps) else ""
        minutes, remainder = divmod(round((self._num_steps - last_step) * speeds["seconds_per_step"]), 60)
        print(
            f"step {last_step:>{len(str(self._num_steps))}}/{self._num_steps}  loss {loss:.4f}  {passed_over}"
            f"gradient {steps[-1].gradient_norm:.2g}  lr {learning_rate:.2g}  {speeds['seconds_per_step']:.3g} s/step  "
            f"{speeds['clips_per_second']:,.3g} clips/s  {_si(speeds['tokens_per_second'])} tokens/s  "
            f"{_si(speeds['flops_per_second'])}FLOP/s (MFU {speeds['mfu']:.0%})  wait {data_wait:.1%}  "
            f"{of_window['peak_memory'] / 2**30:.1f} GiB  {minutes}:{remainder:02d} left",
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


def _peak_memory() -> int:
    """Bytes: of the first rank's tensors on its GPU; without one, of its process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _si(number: float) -> str:
    """Three digits and a prefix, with a space before it."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.3g} "


def _forget_steps_after(file: Path, step: int) -> None:
    """A run that was killed had gone on past its last checkpoint; those steps will be taken again."""
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_atomically(file, "".join(kept))
