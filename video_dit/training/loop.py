"""The training loop."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from video_dit.config import Config, DiffusionConfig
from video_dit.contracts import Batch, TextCondition
from video_dit.diffusion.objective import diffusion_loss
from video_dit.diffusion.rectified_flow import add_noise
from video_dit.run_folder import RunFolder
from video_dit.training.averages import AveragedWeights
from video_dit.training.checkpoint import resume, save_checkpoint
from video_dit.training.draws import draw, drop_conditions, trim_padding
from video_dit.training.engine import Engine, micro_batch_size
from video_dit.training.progress import Progress, Stopwatch
from video_dit.training.schedule import ema_decay, learning_rate_factor

BatchSource = Callable[[int, int, int, int], Iterator[Batch]]
"""rank, number of ranks, micro-batch size and the step to start at, to that rank's micro-batches from there on."""


def train(
    config: Config,
    model: nn.Module,
    empty_prompt: TextCondition,
    load_batches: BatchSource,
    tokens_per_sample: int,
    run: RunFolder,
) -> None:
    """Trains from the run's newest checkpoint, or from the start, to `training.steps`.

    Runs on each of the `ranks()`.

    Args:
        config: the run's config.
        model: with its initial weights, the same on every rank.
        empty_prompt: one row, what a dropped condition becomes.
        load_batches: see `BatchSource`.
        tokens_per_sample: S, for the speed that is shown.
        run: where everything is kept.
    """
    training = config.training
    num_parameters = sum(parameter.numel() for parameter in model.parameters())  # ZeRO-3 leaves none to count
    engine = Engine(model, config)
    averages = AveragedWeights(engine.shards())
    first_step = resume(run, engine, averages)
    batches = load_batches(engine.rank, engine.num_ranks, micro_batch_size(config, engine.num_ranks), first_step)
    progress = None
    if engine.rank == 0:
        print(f"{num_parameters / 1e6:.1f} M parameters on {engine}, {training.precision}")
        print(f"after {first_step} of {training.steps} steps" if first_step else f"{training.steps} steps")
        progress = Progress(run, first_step, training.steps, training.batch_size * tokens_per_sample)

    stopwatch = Stopwatch()
    losses: list[Tensor] = []
    for step in range(first_step, training.steps):
        factor = learning_rate_factor(step, training)
        engine.scale_learning_rates(factor)
        micro_losses = []
        for _ in range(engine.micro_batches_per_step):
            batch = stopwatch.waiting(batches)
            loss = training_loss(engine.model, batch, empty_prompt, config.diffusion, engine.device)
            engine.backward(loss)
            micro_losses.append(loss.detach())
        averages.update(engine.shards(), ema_decay(step, training))
        losses.append(torch.stack(micro_losses).mean())

        done = step + 1
        checkpoint_due = done % training.checkpoint_every == 0 or done == training.steps
        if done % training.log_every == 0 or checkpoint_due:
            means = engine.sum_over_ranks(torch.stack(losses)) / engine.num_ranks
            if progress is not None:
                progress.log(done, means.tolist(), training.learning_rate * factor, *stopwatch.lap())
            losses.clear()
        if checkpoint_due:
            save_checkpoint(run, engine, averages, done, training.keep_checkpoints)
            stopwatch.lap()
    if progress is not None:
        progress.close()
        print(f"averaged weights: {run.averaged_weights()}")


def training_loss(
    model: nn.Module, batch: Batch, empty_prompt: TextCondition, config: DiffusionConfig, device: torch.device
) -> Tensor:
    """The mean loss of a batch, each sample under its own draws."""
    draws = draw(batch, config)
    latents, noise, t = (tensor.to(device) for tensor in (batch.latents, draws.noise, draws.t))
    text = trim_padding(drop_conditions(batch.text, empty_prompt, draws.drop_condition))
    output = model(add_noise(latents, noise, t), t, text.to(device), batch.clip.to(device))
    return diffusion_loss(output, latents, noise, t, config.prediction, config.loss, config.min_t).mean()
