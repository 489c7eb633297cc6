"""Random inputs that several test files share."""

import torch

from video_dit.contracts import Batch, ClipInfo, EncodedShape, TextCondition


def random_text(batch: int, length: int, width: int, lengths: list[int] | None = None) -> TextCondition:
    """Random embeddings with `lengths` tokens per row; padding is zero."""
    mask = torch.arange(length)[None] < torch.tensor(lengths or [length] * batch)[:, None]
    return TextCondition(torch.randn(batch, length, width) * mask[..., None], mask, torch.randn(batch, width))


def random_clip_info(batch: int) -> ClipInfo:
    return ClipInfo(5 + 25 * torch.rand(batch), 64 + 512 * torch.rand(batch, 2), 100 * torch.rand(batch, 2))


def random_batch(batch: int, encoded: EncodedShape) -> Batch:
    """Of the largest clips, whose prompts have no padding."""
    text = TextCondition(
        torch.randn(batch, encoded.text_length, encoded.text_width),
        torch.ones(batch, encoded.text_length, dtype=torch.bool),
        torch.randn(batch, encoded.pooled_width),
    )
    places = torch.tensor([(place, batch) for place in range(batch)])
    latents = torch.randn(batch, encoded.channels, *encoded.grid)
    return Batch(latents, text, random_clip_info(batch), torch.arange(batch), places, ("",) * batch)
