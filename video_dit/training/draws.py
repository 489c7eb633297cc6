"""Everything random about a training sample, drawn from its own seed."""

from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor

from video_dit.config import Config, DiffusionConfig
from video_dit.contracts import Batch, TextCondition, TextSegment
from video_dit.diffusion.processes import build_process
from video_dit.diffusion.timesteps import sample_t, shift_for
from video_dit.shapes import Grid, token_grid


class Draws(NamedTuple):
    """
    noise: [B, C, F, H, W].
    t: [B, 1], or [B, F/pt] where each frame of tokens has its own, in [0, 1].
    given: [B, F] bool, true on frames that are given.
    dropped: [B, E] bool, whose text is lost, for each of the text encoders.
    """

    noise: Tensor
    t: Tensor
    given: Tensor
    dropped: Tensor

    def t_of_frames(self) -> Tensor:
        """[B, F]: the time of each frame of latents; 0 where it is given."""
        num_frames = self.given.shape[1]
        t = repeat(self.t, "b f -> b (f pt)", pt=num_frames // self.t.shape[1])
        return torch.where(self.given, 0, t)


def draw(batch: Batch, config: Config, num_encoders: int = 1) -> Draws:
    """The draws of each sample, a function of its seed and the config alone: not of its neighbours in the batch.

    Under `diffusion.stratified` also of its place in the step's batch, which no rank changes.
    """
    diffusion = config.diffusion
    tokens = token_grid(Grid(*batch.latents.shape[2:]), config.model.patch_size)
    noise = torch.empty_like(batch.latents)
    rows = []
    for of_sample, seed in zip(noise, batch.seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        u = torch.rand(tokens.frames if diffusion.per_frame_noise else 1, generator=generator, dtype=torch.float64)
        dropped = _draw_dropped(diffusion, num_encoders, generator)
        given = _draw_given(diffusion, noise.shape[2], generator)
        of_sample.normal_(generator=generator)
        rows.append((u, given, dropped))
    u, given, dropped = (torch.stack(column) for column in zip(*rows, strict=True))
    if diffusion.stratified:
        begin, length = batch.strata.T[..., None]
        u = begin + length * u
    t = sample_t(u, build_process(diffusion), diffusion, shift_for(tokens.size, diffusion))
    return Draws(noise, t, given, dropped)


def _draw_dropped(config: DiffusionConfig, num_encoders: int, generator: torch.Generator) -> Tensor:
    of_each = torch.tensor(config.encoder_dropout or (0.0,) * num_encoders)
    everything = torch.rand((), generator=generator) < config.condition_dropout
    return (torch.rand(num_encoders, generator=generator) < of_each) | everything


def _draw_given(config: DiffusionConfig, num_frames: int, generator: torch.Generator) -> Tensor:
    task, length = torch.rand(2, generator=generator).tolist()
    given = torch.zeros(num_frames, dtype=torch.bool)
    if task < config.first_frame:
        given[0] = True
    elif task < config.first_frame + config.first_and_last_frame:
        given[[0, -1]] = True
    elif task < config.first_frame + config.first_and_last_frame + config.continuation:
        given[: 1 + int(length * max(1, num_frames // 2))] = True
    return torch.zeros_like(given) if given.all() else given


def drop_conditions(
    text: TextCondition, empty_prompt: TextCondition, dropped: Tensor, segments: tuple[TextSegment, ...]
) -> TextCondition:
    """The text with what some encoders made of it replaced by what they make of the empty prompt.

    Args:
        text: B rows.
        empty_prompt: one row.
        dropped: [B, E] bool.
        segments: of the E encoders.
    """
    embeds, mask, pooled = (tensor.clone() for tensor in text)
    for segment, rows in zip(segments, dropped.T, strict=True):
        tokens, channels, of_pooled = (slice(*part) for part in (segment.tokens, segment.channels, segment.pooled))
        embeds[rows, tokens, channels] = empty_prompt.embeds[:, tokens, channels]
        mask[rows, tokens] = empty_prompt.mask[:, tokens]
        pooled[rows, of_pooled] = empty_prompt.pooled[:, of_pooled]
    return TextCondition(embeds, mask, pooled)


def trim_padding(text: TextCondition) -> TextCondition:
    """The text without the columns that are padding in every row; attention sees none of them, so nothing changes."""
    length = int(text.mask.any(0).nonzero().max()) + 1
    return TextCondition(text.embeds[:, :length], text.mask[:, :length], text.pooled)
