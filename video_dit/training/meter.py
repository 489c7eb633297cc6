"""How fast training goes: what went through it in which time, and what the time was spent on."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch

from video_dit.contracts import Batch
from video_dit.models import VideoDiT
from video_dit.shapes import Grid, token_grid
from video_dit.training.draws import Draws, trim_padding
from video_dit.training.flops import step_flops


class Speed(NamedTuple):
    """
    seconds: that training took, without what was `paused`.
    waited: of these, those spent waiting for data.
    paused: beside these, those spent on what was `paused`.
    clips, tokens: that went through it on all ranks; tokens of video and text, padding among them.
    flops: of their forward and backward passes, as MFU counts them.
    """

    seconds: float
    waited: float
    paused: float
    clips: int
    tokens: int
    flops: int


class Meter:
    """Counts what goes through this rank, and takes the other ranks for as busy.

    Args:
        model: whose operations are counted.
        num_ranks: those that get batches of their own.
        per_frame_noise: each frame has a timestep of its own.
    """

    def __init__(self, model: VideoDiT, num_ranks: int, per_frame_noise: bool) -> None:
        self._patch_size = model.config.patch_size
        self._num_ranks = num_ranks
        self._flops = lru_cache(lambda grid, length: step_flops(model, grid, length, per_frame_noise).model)
        self._begin()

    def _begin(self) -> None:
        self._start = time.perf_counter()
        self._waited = self._paused = 0.0
        self._clips = self._tokens = self._operations = 0

    def batches(self, source: Iterator[tuple[Batch, Draws]]) -> Iterator[tuple[Batch, Draws]]:
        """The same, counted; the time that they take counts as waiting."""
        while True:
            start = time.perf_counter()
            batch, draws = next(source)
            self._waited += time.perf_counter() - start
            self._count(batch)
            yield batch, draws

    def _count(self, batch: Batch) -> None:
        grid, length = token_grid(Grid(*batch.latents.shape[2:]), self._patch_size), batch.text.mask.shape[1]
        clips = len(batch.latents) * self._num_ranks
        self._clips += clips
        self._tokens += clips * (grid.size + length)
        self._operations += clips * self._flops(grid, trim_padding(batch.text).mask.shape[1])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is not training."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def lap(self) -> Speed:
        """Since the last lap."""
        seconds = time.perf_counter() - self._start - self._paused
        speed = Speed(seconds, self._waited, self._paused, self._clips, self._tokens, self._operations)
        self._begin()
        return speed


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: of the GPU, as far as tensors go, or without one of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
