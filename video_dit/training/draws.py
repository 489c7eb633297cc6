"""Everything random about a training sample, drawn from its own seed."""

from typing import NamedTuple

import torch
from torch import Tensor

from video_dit.config import DiffusionConfig
from video_dit.contracts import Batch, TextCondition
from video_dit.diffusion.timesteps import sample_t


class Draws(NamedTuple):
    """noise: [B, C, F, H, W]; t: [B] in (0, 1); drop_condition: [B] bool."""

    noise: Tensor
    t: Tensor
    drop_condition: Tensor


def draw(batch: Batch, config: DiffusionConfig) -> Draws:
    """The draws of each sample, a function of its seed and the config alone: not of its neighbours in the batch."""
    rows = []
    for latents, seed in zip(batch.latents, batch.seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        t = sample_t((), config.timestep_sampler, config.logit_mean, config.logit_std, config.shift, generator)
        drop_condition = torch.rand((), generator=generator) < config.condition_dropout
        rows.append(Draws(torch.randn(latents.shape, generator=generator), t, drop_condition))
    return Draws(*(torch.stack(column) for column in zip(*rows, strict=True)))


def drop_conditions(text: TextCondition, empty_prompt: TextCondition, drop: Tensor) -> TextCondition:
    """The text with the rows where `drop` [B] holds replaced by the empty prompt (one row)."""
    return TextCondition(
        *(
            torch.where(drop.reshape(-1, *(1,) * (tensor.ndim - 1)), empty, tensor)
            for tensor, empty in zip(text, empty_prompt, strict=True)
        )
    )


def trim_padding(text: TextCondition) -> TextCondition:
    """The text without the columns that are padding in every row; attention sees none of them, so nothing changes."""
    length = int(text.mask.any(0).nonzero().max()) + 1
    return TextCondition(text.embeds[:, :length], text.mask[:, :length], text.pooled)
