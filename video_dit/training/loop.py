"""The training loop."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from video_dit.config import Config
from video_dit.contracts import Batch, TextCondition, TextSegment
from video_dit.run_folder import RunFolder
from video_dit.shapes import Grid, token_grid
from video_dit.training.averages import AveragedWeights
from video_dit.training.checkpoint import Checkpoints, save_snapshot
from video_dit.training.deepspeed_config import micro_batch_size
from video_dit.training.engine import Engine, shared_store
from video_dit.training.loss import LossFunction, means_by_bin
from video_dit.training.progress import Progress, Stopwatch
from video_dit.training.schedule import learning_rate_factor
from video_dit.training.stop import StopRequest
from video_dit.training.validation import validation_loss
from video_dit.training.watchdog import Watchdog

BatchSource = Callable[[int, int, int, int], Iterator[Batch]]
"""rank, number of ranks, micro-batch size and the step to start at, to that rank's micro-batches from there on."""

ValidationSource = Callable[[int, int, int], Iterable[tuple[Batch, Tensor]]]
"""rank, number of ranks and micro-batch size to that rank's share of the held-out clips; see `validation_loss`."""


def train(
    config: Config,
    model: nn.Module,
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
    checkpoints = Checkpoints(run, engine, averages, training.keep_checkpoints)
    first_step = checkpoints.resume()
    micro_batch = micro_batch_size(config, engine.num_ranks)
    batches = load_batches(engine.rank, engine.num_ranks, micro_batch, first_step)
    loss_function = LossFunction(config, empty_prompt, text_segments, engine.device)
    progress = None
    if engine.rank == 0:
        print(f"{num_parameters / 1e6:.1f} M parameters on {engine}, {training.precision}")
        print(f"after {first_step} of {training.steps} steps" if first_step else f"{training.steps} steps")
        run.forget_snapshots_after(first_step)
        progress = Progress(run, first_step, training.steps)

    watchdog = Watchdog(engine.rank, engine.num_ranks, shared_store(), training.step_time_limit)
    stop = StopRequest()
    stopwatch = Stopwatch()
    num_tokens = 0
    losses: list[Tensor] = []
    by_bins: list[Tensor] = []
    for step in range(first_step, training.steps):
        watchdog.enter(step + 1, "training")
        factor = learning_rate_factor(step, training)
        engine.scale_learning_rates(factor)
        loss, by_bin, step_tokens = _optimizer_step(engine, loss_function, batches, stopwatch)
        num_tokens += step_tokens * engine.num_ranks
        averages.update(engine.shards(), step)
        losses.append(loss)
        by_bins.append(by_bin)

        done = step + 1
        stopping, writing, failed = engine.any_rank(stop.asked, checkpoints.writing, checkpoints.failed)
        checkpoints.attend(writing, failed)
        checkpoint_due = done % training.checkpoint_every == 0 or done == training.steps or stopping
        if done % training.log_every == 0 or checkpoint_due:
            means = engine.sum_over_ranks(torch.stack(losses)) / engine.num_ranks
            by_t = means_by_bin(engine.sum_over_ranks(torch.stack(by_bins).sum(0)))
            if progress is not None:
                rate = training.learning_rate * factor
                progress.log(done, means.tolist(), by_t, rate, num_tokens, *stopwatch.lap())
            num_tokens = 0
            losses.clear()
            by_bins.clear()
        if load_validation is not None and (done % training.validate_every == 0 or done == training.steps):
            watchdog.enter(done, "validating")
            held_out = load_validation(engine.rank, engine.num_ranks, micro_batch)
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
        if stopping:
            break
    checkpoints.finish()
    watchdog.close()
    if progress is not None:
        progress.close()
        if checkpoints.published < training.steps:
            print(f"stopped by a signal after {checkpoints.published} steps; the same command goes on")
        print(f"averaged weights: {run.averaged_weights()}")


class _Step(NamedTuple):
    """This rank's mean loss, all of it by t, and how many tokens its samples had."""

    loss: Tensor
    by_bin: Tensor
    num_tokens: int


def _optimizer_step(
    engine: Engine, loss_function: LossFunction, batches: Iterator[Batch], stopwatch: Stopwatch
) -> _Step:
    """One step over this rank's micro-batches."""
    parts = []
    num_tokens = 0
    patch_size = loss_function.config.model.patch_size
    for _ in range(engine.micro_batches_per_step):
        batch = stopwatch.waiting(batches)
        grid = token_grid(Grid(*batch.latents.shape[2:]), patch_size)
        num_tokens += len(batch.latents) * (grid.size + batch.text.embeds.shape[1])
        loss, by_bin = loss_function(engine.model, batch)
        engine.backward(loss)
        parts.append((loss.detach(), by_bin))
    means, by_bins = zip(*parts, strict=True)
    return _Step(torch.stack(means).mean(), torch.stack(by_bins).sum(0), num_tokens)
