"""Random inputs that several test files share."""

import torch

from video_dit.contracts import TextCondition


def random_text(batch: int, length: int, width: int, lengths: list[int] | None = None) -> TextCondition:
    """Random embeddings with `lengths` tokens per row; padding is zero."""
    mask = torch.arange(length)[None] < torch.tensor(lengths or [length] * batch)[:, None]
    return TextCondition(torch.randn(batch, length, width) * mask[..., None], mask, torch.randn(batch, width))
