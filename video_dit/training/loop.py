"""The training loop."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from video_dit.config import Config
from video_dit.contracts import Batch, TextCondition, TextSegment
from video_dit.diffusion.objective import NUM_BINS
from video_dit.models import VideoDiT
from video_dit.models.trained import ParameterCounts, parameter_counts
from video_dit.run_folder import RunFolder
from video_dit.training.alarms import Alarms, Shown
from video_dit.training.averages import AveragedWeights
from video_dit.training.checkpoint import Checkpoints, save_snapshot
from video_dit.training.deepspeed_config import micro_batch_size
from video_dit.training.devices import peak_flops
from video_dit.training.draws import Draws
from video_dit.training.engine import Engine, shared_store
from video_dit.training.loss import LossFunction, means
from video_dit.training.meter import Meter, peak_memory
from video_dit.training.progress import Progress, Samples, StepRow
from video_dit.training.read_ahead import read_ahead
from video_dit.training.schedule import learning_rate_factor
from video_dit.training.stop import StopRequest
from video_dit.training.validation import Validation, validate
from video_dit.training.watchdog import Watchdog

BatchSource = Callable[[int, int, int, int], Iterator[Batch]]
"""data rank, number of those, micro-batch size and the step to start at, to that rank's micro-batches from there on."""

ValidationSource = Callable[[int, int, int], Iterable[tuple[Batch, Tensor]]]
"""data rank, number of those and micro-batch size to that rank's share of the held-out clips; see `validate`."""

SampleSource = Callable[[dict[str, Tensor], int], Samples]
"""Averaged weights and the number of steps that made them, to clips that they make, on rank 0 alone."""


def train(
    config: Config,
    model: VideoDiT,
    empty_prompt: TextCondition,
    text_segments: tuple[TextSegment, ...],
    load_batches: BatchSource,
    load_validation: ValidationSource | None,
    make_samples: SampleSource | None,
    run: RunFolder,
) -> None:
    """Trains from the run's newest checkpoint, or from the start, to `training.steps`.

    Runs on each of the `ranks()`.

    Args:
        config: the run's config.
        model: with its initial weights, the same on every rank.
        empty_prompt: one row, what a dropped condition becomes.
        text_segments: where each text encoder's part of a condition is.
        load_batches: see `BatchSource`.
        load_validation: see `ValidationSource`; None: nothing is held out.
        make_samples: see `SampleSource`; None: none are made.
        run: where everything is kept.

    Raises:
        UserError: a step cannot be taken and may not be left out, or something cannot be read or written.
    """
    training = config.training
    stop = StopRequest()
    sizes = parameter_counts(model)  # ZeRO-3 leaves none to count
    engine = Engine(model, config)
    watchdog = Watchdog(engine.rank, engine.num_ranks, shared_store(), training.step_time_limit)
    averages = AveragedWeights(engine.shards(), training)
    checkpoints = Checkpoints(run, engine, averages, training.keep_checkpoints)
    first_step = checkpoints.resume()
    micro_batch = micro_batch_size(config, engine.num_ranks)
    meter = Meter(model, engine.num_data_ranks, config.diffusion.per_frame_noise)
    loss_function = LossFunction(config, empty_prompt, text_segments, engine.device)
    loaded = load_batches(engine.data_rank, engine.num_data_ranks, micro_batch, first_step)
    batches = meter.batches(read_ahead(loaded, loss_function.draws, engine.device))
    alarms = Alarms(run, engine, checkpoints, training, first_step)
    progress = _open_progress(run, config, engine, sizes, first_step) if engine.rank == 0 else None
    duties = [*_duties(config, engine, averages, loss_function, run, progress, load_validation, make_samples)]

    rows: list[StepRow] = []
    by_bin = torch.zeros(2, NUM_BINS, device=engine.device)
    stopping = False

    def duties_after(done: int) -> list[_Duty]:
        return [duty for duty in duties if done % duty.every == 0 or done == training.steps]

    def fulfil(due: list[_Duty], done: int) -> None:
        for duty in due:
            watchdog.enter(done, duty.doing)
            with meter.paused():
                duty.do(done)

    if checkpoints.has_duties:
        fulfil(duties_after(first_step), first_step)
    meter.lap()
    for step in range(first_step, training.steps):
        watchdog.enter(step + 1, "training")
        engine.scale_learning_rates(learning_rate_factor(step, training))
        loss, problem, shown, of_step = _optimizer_step(engine, loss_function, batches, alarms)
        done = step + 1
        is_last = done == training.steps
        alarms.settle(done, loss, problem, shown)
        averages.update(engine.shards(), step)
        rows.append(StepRow(loss, engine.gradient_norm, engine.step_taken))
        if engine.step_taken:
            by_bin += of_step

        asked, writing, failed = engine.any_rank(stop.asked, checkpoints.writing, checkpoints.failed)
        checkpoints.attend(writing, failed)
        stopping = asked and not is_last
        due = duties_after(done)
        checkpoint_due = done % training.checkpoint_every == 0 or is_last or stopping
        # Before what is logged after them: some trackers drop what is of an earlier step than the last.
        if done % training.log_every == 0 or checkpoint_due or alarms.alarmed or due:
            by_t = means(engine.sum_over_ranks(by_bin))
            if progress is not None:
                progress.log(done, rows, by_t, engine.learning_rate, meter.lap(), peak_memory(engine.device))
            rows.clear()
            by_bin.zero_()
        alarms.end_if_asked()
        if not stopping:
            fulfil(due, done)
        if checkpoint_due:
            watchdog.enter(done, "saving")
            with meter.paused():
                checkpoints.save(done, has_duties=stopping)
        if stopping:
            break
    checkpoints.finish()
    watchdog.close()
    if progress is not None:
        progress.close()
        if stopping:
            print(f"stopped by a signal after {checkpoints.published} steps; the same command goes on")
        print(f"averaged weights: {run.averaged_weights()}")


class _Duty(NamedTuple):
    """What is done between steps: after every so many, and after the last.

    doing: what the watchdog calls it.
    do: is given how many steps are done.
    """

    every: int
    doing: str
    do: Callable[[int], None]


def _duties(
    config: Config,
    engine: Engine,
    averages: AveragedWeights,
    loss_function: LossFunction,
    run: RunFolder,
    progress: Progress | None,
    load_validation: ValidationSource | None,
    make_samples: SampleSource | None,
) -> Iterator[_Duty]:
    """In the order in which they are done."""
    training = config.training

    def measure(load: ValidationSource, done: int) -> None:
        held_out = load(engine.data_rank, engine.num_data_ranks, micro_batch_size(config, engine.num_ranks))
        of_all = Validation(*map(engine.sum_over_ranks, validate(engine.model, loss_function, held_out)))
        if progress is not None:
            progress.log_validation(done, of_all.figures())

    def sample(make: SampleSource, done: int) -> None:
        weights = engine.gather(averages.by_name["ema"])
        if progress is not None:
            progress.log_samples(done, make(weights, done))
        engine.any_rank(False)  # the others wait

    if load_validation is not None:
        yield _Duty(training.validate_every, "validating", partial(measure, load_validation))
    if make_samples is not None:
        yield _Duty(training.sample_every, "sampling", partial(sample, make_samples))
    if training.ema_widths:
        yield _Duty(training.snapshot_every, "saving", partial(save_snapshot, run, engine, averages))


def _open_progress(run: RunFolder, config: Config, engine: Engine, sizes: ParameterCounts, first_step: int) -> Progress:
    """Forgets what was after the step that the run goes on from, and says what it is."""
    training = config.training
    peak = peak_flops(engine.device, training.precision)
    print(f"{sizes} on {engine}, {training.precision}")
    print(f"peak of a device: {peak.flops / 1e12:.3g} TFLOP/s, {peak.source}")
    print(f"after {first_step} of {training.steps} steps" if first_step else f"{training.steps} steps")
    if training.compile:
        print("blocks are compiled in the first steps, and again where clips or texts have other sizes: minutes in all")
    run.forget_snapshots_after(first_step)
    return Progress(run, config, first_step, peak.flops * engine.num_ranks)


class _Step(NamedTuple):
    """
    loss: the mean over the samples of all ranks.
    problem: why the step must not be taken; None: it may.
    shown: this rank's samples.
    by_bin: this rank's loss, by t.
    """

    loss: float
    problem: str | None
    shown: list[Shown]
    by_bin: Tensor


def _optimizer_step(
    engine: Engine, loss_function: LossFunction, batches: Iterator[tuple[Batch, Draws]], alarms: Alarms
) -> _Step:
    """One step over this rank's micro-batches; the last one's gradient is asked for when all losses are known."""
    losses, shown, by_bins = [], [], []
    for index in range(engine.micro_batches_per_step):
        batch, draws = next(batches)
        loss, of_samples, by_bin = loss_function.of_draws(engine.model, batch, draws)
        losses.append(loss.detach())
        shown.append(Shown(batch, of_samples))
        by_bins.append(by_bin)
        if index < engine.micro_batches_per_step - 1:
            engine.backward(loss)
    mean = engine.mean_over_ranks(float(torch.stack(losses).mean()))
    problem = alarms.problem_of(mean)
    engine.backward(loss, withhold=problem is not None)
    return _Step(mean, problem, shown, torch.stack(by_bins).sum(0))
