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
    noise = torch.empty(batch.latents.shape)  # latents that were encoded here are on a GPU, whose draws are its own
    u = torch.empty(len(noise), tokens.frames if diffusion.per_frame_noise else 1, dtype=torch.float64)
    chances = torch.empty(len(noise), 1 + num_encoders + 2)
    generator = torch.Generator()
    for row, seed in enumerate(batch.seeds.tolist()):
        generator.manual_seed(seed)
        u[row].uniform_(generator=generator)
        chances[row].uniform_(generator=generator)
        noise[row].normal_(generator=generator)
    of_dropping, of_giving = chances.double().split((1 + num_encoders, 2), dim=1)
    dropped = _dropped(diffusion, of_dropping)
    given = _given(diffusion, noise.shape[2], of_giving)
    if diffusion.stratified:
        place, size = batch.places.T[..., None]
        u = (place + u) / size
    t = sample_t(u, build_process(diffusion), diffusion, shift_for(tokens.size, diffusion))
    return Draws(noise, t, given, dropped)


def _dropped(config: DiffusionConfig, chances: Tensor) -> Tensor:
    """[B, E], of [B, 1 + E] in [0, 1): that of everything, then that of each encoder."""
    of_each = torch.tensor(config.encoder_dropout or (0.0,) * (chances.shape[1] - 1), dtype=chances.dtype)
    return (chances[:, 1:] < of_each) | (chances[:, :1] < config.condition_dropout)


def _given(config: DiffusionConfig, num_frames: int, chances: Tensor) -> Tensor:
    """[B, F], of [B, 2] in [0, 1): which task, and how much of the frames a continuation has."""
    task, length = chances.T[..., None]
    frame = torch.arange(num_frames)
    begins_and_ends = config.first_frame + config.first_and_last_frame
    continues = begins_and_ends + config.continuation
    num_first = torch.where(task < begins_and_ends, 1, 1 + (length * max(1, num_frames // 2)).long())
    has_last = (config.first_frame <= task) & (task < begins_and_ends)
    given = (task < continues) & (frame < num_first) | has_last & (frame == num_frames - 1)
    return given & ~given.all(1, keepdim=True)


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
