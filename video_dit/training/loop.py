"""The training loop."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from video_dit.config import Config
from video_dit.contracts import Batch, TextCondition, TextSegment
from video_dit.models import VideoDiT
from video_dit.run_folder import RunFolder
from video_dit.training.alarms import LossWatch, stopped
from video_dit.training.averages import AveragedWeights
from video_dit.training.checkpoint import Checkpoints, save_snapshot
from video_dit.training.engine import Engine, micro_batch_size
from video_dit.training.loss import LossFunction, means_by_bin
from video_dit.training.peak import peak_flops
from video_dit.training.progress import Progress, Step, Stopwatch
from video_dit.training.schedule import learning_rate_factor
from video_dit.training.steps import Steps
from video_dit.training.stop import StopRequest
from video_dit.training.validation import validation_loss
from video_dit.training.watchdog import Watchdog

BatchSource = Callable[[int, int, int, int], Iterator[Batch]]
"""data rank, number of those, micro-batch size and the step to start at, to that rank's micro-batches from there on."""

ValidationSource = Callable[[int, int, int], Iterable[tuple[Batch, Tensor]]]
"""data rank, number of those and micro-batch size to that rank's share of the held-out clips; see `validation_loss`."""


def train(
    config: Config,
    model: VideoDiT,
    empty_prompt: TextCondition,
    text_segments: tuple[TextSegment, ...],
    load_batches: BatchSource,
    load_validation: ValidationSource | None,
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
        run: where everything is kept.
    """
    training = config.training
    num_parameters = sum(parameter.numel() for parameter in model.parameters())  # ZeRO-3 leaves none to count
    engine = Engine(model, config)
    averages = AveragedWeights(engine.shards(), training)
    watch = LossWatch(training)
    checkpoints = Checkpoints(run, engine, averages, watch, training.keep_checkpoints)
    first_step = checkpoints.resume()
    micro_batch = micro_batch_size(config, engine.num_ranks)
    batches = load_batches(engine.data_rank, engine.num_data_ranks, micro_batch, first_step)
    loss_function = LossFunction(config, empty_prompt, text_segments, engine.device)
    progress = None
    if engine.rank == 0:
        print(f"{num_parameters / 1e6:.1f} M parameters on {engine}, {training.precision}")
        print(f"after {first_step} of {training.steps} steps" if first_step else f"{training.steps} steps")
        run.forget_snapshots_after(first_step)
        progress = Progress(run, first_step, training.steps, engine.num_ranks * peak_flops(engine.device, training))

    watchdog = Watchdog(engine.rank, engine.num_ranks, engine.store(), training.step_time_limit)
    stop = StopRequest()
    stopwatch = Stopwatch()
    steps = Steps(engine, model, loss_function, batches, watch, run, stopwatch)
    window: list[Step] = []
    failure = None
    for step in range(first_step, training.steps):
        watchdog.enter(step + 1, "training")
        factor = learning_rate_factor(step, training)
        engine.scale_learning_rates(factor)
        taken = steps.take(step)
        if taken.problem is not None and watch.must_stop():
            failure = stopped(run, step, taken.problem)
        else:
            averages.update(engine.shards(), step)
            window.append(taken)

        done = step + (failure is None)
        stopping, writing, failed = engine.any_rank(stop.asked, checkpoints.writing, checkpoints.failed)
        checkpoints.attend(writing, failed)
        ending = stopping or failure is not None or done == training.steps
        checkpoint_due = ending or done % training.checkpoint_every == 0
        if window and (checkpoint_due or done % training.log_every == 0):
            by_t = means_by_bin(engine.sum_over_ranks(torch.stack([taken.by_bin for taken in window]).sum(0)))
            if progress is not None:
                progress.log(done, window, by_t, training.learning_rate * factor, *stopwatch.lap())
            window.clear()
        if load_validation is not None and (done % training.validate_every == 0 or done == training.steps):
            watchdog.enter(done, "validating")
            held_out = load_validation(engine.data_rank, engine.num_data_ranks, micro_batch)
            by_t = means_by_bin(engine.sum_over_ranks(validation_loss(engine.model, loss_function, held_out)))
            if progress is not None:
                progress.log_validation(done, by_t)
            stopwatch.lap()
        if training.ema_widths and (done % training.snapshot_every == 0 or done == training.steps):
            save_snapshot(run, engine, averages, done)
            stopwatch.lap()
        if checkpoint_due:
            watchdog.enter(done, "saving")
            checkpoints.save(done)
            stopwatch.lap()
        if ending:
            break
    checkpoints.finish()
    watchdog.close()
    if progress is not None:
        progress.close()
    if failure is not None:
        raise failure
    if engine.rank == 0:
        if checkpoints.published < training.steps:
            print(f"stopped by a signal after {checkpoints.published} steps; the same command goes on")
        print(f"averaged weights: {run.averaged_weights()}")
