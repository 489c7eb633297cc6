"""Random inputs that several test files share."""

import torch

from video_dit.contracts import ClipInfo, TextCondition


def random_text(batch: int, length: int, width: int, lengths: list[int] | None = None) -> TextCondition:
    """Random embeddings with `lengths` tokens per row; padding is zero."""
    mask = torch.arange(length)[None] < torch.tensor(lengths or [length] * batch)[:, None]
    return TextCondition(torch.randn(batch, length, width) * mask[..., None], mask, torch.randn(batch, width))


def random_clip_info(batch: int) -> ClipInfo:
    return ClipInfo(5 + 25 * torch.rand(batch), 64 + 512 * torch.rand(batch, 2), 100 * torch.rand(batch, 2))
