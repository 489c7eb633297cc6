"""What the benchmarks of the model share: SD3's widths, and inputs of any length."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import torch

from data.dataset import ClipDataset, load_batches
from data.order import Schedule, micro_batch_positions
from video_dit.contracts import TextCondition
from video_dit.shapes import Grid

CHANNELS, PATCH, HEAD_SIZE, TEXT_WIDTH, POOLED_WIDTH = 16, 2, 64, 4096, 2048
"""Of SD3 (Esser et al. 2024, arXiv 2403.03206)."""


def near_square(tokens: int) -> Grid:
    """One frame of this many tokens, as near to a square as whole numbers allow."""
    height = next(height for height in range(math.isqrt(tokens), 0, -1) if tokens % height == 0)
    return Grid(1, height, tokens // height)


def random_text(tokens: int, device: torch.device, dtype: torch.dtype) -> TextCondition:
    embeds, pooled = torch.randn(1, tokens, TEXT_WIDTH), torch.randn(1, POOLED_WIDTH)
    mask = torch.ones(1, tokens, dtype=torch.bool, device=device)
    return TextCondition(embeds.to(device, dtype), mask, pooled.to(device, dtype))


def first_batches(dataset: ClipDataset, batch_size: int) -> Iterator[Any]:
    """Those of the first shape, as training reads them on one rank; of latents, or of frames."""
    positions = micro_batch_positions(Schedule(dataset.counts[:1], 0), 0, 1, batch_size, batch_size, 0)
    return load_batches(dataset, positions, 0)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)
