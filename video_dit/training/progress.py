"""What a run says while it goes: a line on the screen, a line per step on disk, and curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from video_dit.config import Config
from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder, read_rows
from video_dit.training.alarms import finite_or_none
from video_dit.training.meter import Speed
from video_dit.training.trackers import SampleClip, Service, TensorBoard


class StepRow(NamedTuple):
    """What is kept of a step: its loss over all ranks, the norm of its gradient if known, and whether it was taken."""

    loss: float
    gradient_norm: Tensor | None
    taken: bool


class Samples(NamedTuple):
    """Clips that the averaged weights have made, and what was measured of them, by name."""

    clips: list[SampleClip]
    measures: dict[str, float]


class Progress:
    """The log of rank 0.

    Args:
        run: where it is kept.
        config: of the run.
        first_step: the step that the run goes on after.
        peak_flops: FLOP/s that all devices together can do; None: not known.

    Raises:
        UserError: a tracker is not installed.
    """

    def __init__(self, run: RunFolder, config: Config, first_step: int, peak_flops: float | None) -> None:
        self._num_steps = config.training.steps
        self._peak_flops = peak_flops
        self._first_step = first_step
        self._steps, self._paused = 0, 0.0
        for file in (run.metrics, run.validation):
            _forget_steps_after(file, first_step)
        self._metrics = run.metrics.open("a", encoding="utf-8")
        self._validation = run.validation
        services = [Service(name, run, config) for name in config.training.trackers]
        self._trackers = [TensorBoard(run.tensorboard, first_step), *services]

    def log(
        self,
        last_step: int,
        rows: Sequence[StepRow],
        by_t: list[float | None],
        learning_rate: float,
        speed: Speed,
        memory: int,
    ) -> None:
        """Records the steps up to `last_step`, and prints one line about them.

        Args:
            last_step: of those that `rows` are about.
            rows: one for each step.
            by_t: the mean loss of the steps that were taken in each part of [0, 1] that t can be in, None where it was
                not.
            learning_rate: of the last one.
            speed: of these steps.
            memory: bytes at the peak.
        """
        figures = self._figures(len(rows), speed)
        self._steps += len(rows)
        self._paused += speed.paused
        first_step = last_step - len(rows) + 1
        for step, row in enumerate(rows, start=first_step):
            norm = None if row.gradient_norm is None or not row.taken else float(row.gradient_norm)
            values = {"step": step, "loss": finite_or_none(row.loss), "gradient_norm": norm}
            values |= {} if row.taken else {"skipped": True}
            values |= (
                {"loss_by_t": by_t, "learning_rate": learning_rate, **figures, "peak_memory": memory}
                if step == last_step
                else {}
            )
            self._metrics.write(json.dumps(values) + "\n")
            if row.taken:
                self._plot({"loss": row.loss} | ({} if norm is None else {"gradient_norm": norm}), step)
        self._metrics.flush()
        plotted = {"learning_rate": learning_rate, "memory/peak": memory, **_parts("loss_by_t", by_t)}
        self._plot(plotted | {f"speed/{name}": value for name, value in figures.items()}, last_step)
        print(self._line(last_step, rows, learning_rate, figures, memory), flush=True)

    def _figures(self, num_steps: int, speed: Speed) -> dict[str, float]:
        figures = {
            "step_seconds": speed.seconds / num_steps,
            "tokens_per_second": speed.tokens / speed.seconds,
            "clips_per_second": speed.clips / speed.seconds,
            "flops_per_second": speed.flops / speed.seconds,
            "data_wait": speed.waited / speed.seconds,
            "paused_seconds": speed.paused,
        }
        if self._peak_flops is not None:
            figures["mfu"] = figures["flops_per_second"] / self._peak_flops
        return figures

    def _line(
        self, last_step: int, rows: Sequence[StepRow], learning_rate: float, figures: Mapping[str, float], memory: int
    ) -> str:
        taken = [row for row in rows if row.taken]
        norms = [float(row.gradient_norm) for row in taken if row.gradient_norm is not None]
        with_pauses = figures["step_seconds"] + self._paused / self._steps  # for validation, samples and checkpoints
        minutes, seconds = divmod(round((self._num_steps - last_step) * with_pauses), 60)
        hours, minutes = divmod(minutes, 60)
        parts = [
            f"step {last_step:>{len(str(self._num_steps))}}/{self._num_steps}",
            f"loss {sum(row.loss for row in taken) / len(taken):.4f}" if taken else "loss -",
            *([f"norm {sum(norms) / len(norms):.3g}"] if norms else []),
            f"lr {learning_rate:.2e}",
            _seconds(figures["step_seconds"]),
            f"{figures['tokens_per_second']:,.0f} tokens/s",
            f"{figures['clips_per_second']:.3g} clips/s",
            f"{_short(figures['flops_per_second'])}FLOP/s"
            + (f" (MFU {figures['mfu']:.1%})" if "mfu" in figures else ""),
            f"data {figures['data_wait']:.1%}",
            f"{memory / 2**30:.2f} GiB",
            f"{hours}:{minutes:02d}:{seconds:02d} left",
        ]
        return "  ".join(parts)

    def log_validation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Records what `Validation.figures` gives after so many steps, and prints a line about it."""
        mean, by_t, error = figures["loss"], figures["loss_by_t"], figures["data_error"]
        if step == self._first_step:  # it was stopped there, and may have measured it already
            _forget_steps_after(self._validation, step - 1)
        with self._validation.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        by_ratio = figures["data_error_by_noise_ratio"].items()
        self._plot({"validation/loss": mean, "validation/data_error": error}, step)
        self._plot({f"validation_data_error/noise_ratio_{ratio:g}": value for ratio, value in by_ratio}, step)
        self._plot(_parts("validation_by_t", by_t), step)
        print(
            f"validation after step {step}: loss {mean:.4f}, from {by_t[0]:.4f} near the data to {by_t[-1]:.4f}; "
            f"mean squared error of the data {error:.4f}",
            flush=True,
        )

    def log_samples(self, step: int, samples: Samples) -> None:
        """Shows clips that were made after `step` steps, and prints a line about them."""
        for tracker in self._trackers:
            tracker.clips(samples.clips, step)
        self._plot({f"samples_measured/{name}": value for name, value in samples.measures.items()}, step)
        measured = "".join(f", {name.replace('_', ' ')} {value:.1%}" for name, value in samples.measures.items())
        print(f"samples after step {step}: {samples.clips[0].mp4.parent}{measured}", flush=True)

    def _plot(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.scalars(values, step)

    def close(self) -> None:
        self._metrics.close()
        for tracker in self._trackers:
            tracker.close()


def _parts(tag: str, by_t: Sequence[float | None]) -> dict[str, float]:
    """A curve for each part of [0, 1] in which there was a t."""
    number = len(by_t)
    return {
        f"{tag}/{index / number:.2f}-{(index + 1) / number:.2f}": loss
        for index, loss in enumerate(by_t)
        if loss is not None
    }


def _short(value: float) -> str:
    """Three digits and the prefix of a thousand, a million ..."""
    prefixes = iter(("k", "M", "G", "T", "P"))
    prefix = ""
    while value >= 999.5:
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.3g} {prefix}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s/step" if value >= 1 else f"{1000 * value:.0f} ms/step"


def _forget_steps_after(file: Path, step: int) -> None:
    """A run that was killed had gone on past its last checkpoint; those steps will be taken again."""
    if file.exists():
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in read_rows(file) if row["step"] <= step))
