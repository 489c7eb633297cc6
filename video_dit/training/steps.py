"""One optimizer step after another: batches in, what was seen of them out."""

from collections.abc import Iterator
from functools import lru_cache
from math import isfinite, nan

import torch

from video_dit.contracts import Batch
from video_dit.models import VideoDiT
from video_dit.run_folder import RunFolder
from video_dit.shapes import Grid, token_grid
from video_dit.training.alarms import LossWatch, SeenSample, record
from video_dit.training.draws import trim_padding
from video_dit.training.engine import Engine
from video_dit.training.flops import step_flops
from video_dit.training.loss import BatchLoss, LossFunction
from video_dit.training.progress import Step, Stopwatch, Work


class Steps:
    """Takes the steps of a run. Every rank calls every method.

    Args:
        engine: has the model.
        model: alike, before DeepSpeed wrapped it; nothing is computed with it.
        loss_function: what is made small.
        batches: this rank's micro-batches.
        watch: says which steps are passed over.
        run: for their records.
        stopwatch: counts the time that is spent waiting for batches.
    """

    def __init__(
        self,
        engine: Engine,
        model: VideoDiT,
        loss_function: LossFunction,
        batches: Iterator[Batch],
        watch: LossWatch,
        run: RunFolder,
        stopwatch: Stopwatch,
    ) -> None:
        self._engine = engine
        self._loss_function = loss_function
        self._batches = batches
        self._watch = watch
        self._run = run
        self._stopwatch = stopwatch
        per_frame_noise = loss_function.config.diffusion.per_frame_noise
        self._flops = lru_cache(lambda grid, length: step_flops(model, grid, length, per_frame_noise).model)

    def take(self, step: int) -> Step:
        """The step after `step` others, over this rank's micro-batches.

        A step whose loss is wrong gets a gradient that is not finite, and so is passed over by every optimizer alike.
        """
        seen: list[tuple[Batch, BatchLoss]] = []
        mean, problem = nan, None
        for index in range(self._engine.micro_batches_per_step):
            batch = self._stopwatch.waiting(self._batches)
            loss = self._loss_function(self._engine.model, batch)
            objective = loss.mean
            seen.append((batch, loss._replace(mean=objective.detach())))
            if index == self._engine.micro_batches_per_step - 1:
                means = torch.stack([of_batch.mean for _, of_batch in seen])
                mean = self._engine.mean_over_ranks(float(means.mean()))
                problem = self._watch.problem(mean)
            self._engine.backward(objective * nan if problem else objective)
        norm = self._engine.gradient_norm
        if problem is None and not isfinite(norm):
            problem = f"the norm of the gradient is {norm}"
        if problem is None:
            self._watch.taken(mean)
        else:
            record(self._run, step, self._engine.rank, problem, _samples(seen))
        by_bin = torch.stack([of_batch.by_bin for _, of_batch in seen]).sum(0)
        if problem is not None:
            by_bin = torch.zeros_like(by_bin)
        return Step(mean, norm, by_bin, self._work([batch for batch, _ in seen]), problem)

    def _work(self, batches: list[Batch]) -> Work:
        """All ranks do as much as this one, but for the padding that each cuts off."""
        work = Work()
        for batch in batches:
            grid = token_grid(Grid(*batch.latents.shape[2:]), self._loss_function.config.model.patch_size)
            length = trim_padding(batch.text).embeds.shape[1]
            clips = len(batch.latents) * self._engine.num_data_ranks
            work = work.plus(Work(clips, clips * (grid.size + length), clips * self._flops(grid, length)))
        return work


def _samples(seen: list[tuple[Batch, BatchLoss]]) -> list[SeenSample]:
    return [
        SeenSample(*values)
        for batch, loss in seen
        for values in zip(batch.ids, batch.seeds.tolist(), loss.by_sample.tolist(), strict=True)
    ]
