"""What the rooms hand to each other: a text condition, a batch, and the two kinds of encoder.

These stand below every room, so that `data` can use an encoder that it was given without knowing `video_dit.encoders`,
and training can read batches without knowing `data`.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


class TextCondition(NamedTuple):
    """Prompts as a transformer reads them.

    embeds: [B, L, Dt] float, one vector per token; padding is zero.
    mask: [B, L] bool, true on tokens and false on padding.
    pooled: [B, Dp] float, one vector per prompt.
    """

    embeds: Tensor
    mask: Tensor
    pooled: Tensor

    def to(self, device: object) -> "TextCondition":
        return TextCondition(*(tensor.to(device) for tensor in self))  # type: ignore[call-overload]


class TextSegment(NamedTuple):
    """What one of several joined text encoders has in a `TextCondition`: [start, stop) of tokens, channels, pooled."""

    tokens: tuple[int, int]
    channels: tuple[int, int]
    pooled: tuple[int, int]


class ClipInfo(NamedTuple):
    """Where clips come from, for models that are conditioned on it (as SDXL is: Podell et al. 2023, section 2.2).

    fps: [B] float, frames per second.
    size: [B, 2] float, height and width of the source in pixels.
    crop: [B, 2] float, rows and columns that were cut off at the top and at the left of the scaled source.
    """

    fps: Tensor
    size: Tensor
    crop: Tensor

    def to(self, device: object) -> "ClipInfo":
        return ClipInfo(*(tensor.to(device) for tensor in self))  # type: ignore[call-overload]


class Batch(NamedTuple):
    """What training reads: samples that are ready for the model, and where their draws come from.

    latents: [B, C, F, H, W] float.
    text: the captions' embeddings.
    clip: where the clips come from.
    seeds: [B] int64, a function of (seed, epoch, sample id) alone.
    positions: [B] int64, in the order of all epochs, which (seed, epoch) alone decide.
    """

    latents: Tensor
    text: TextCondition
    clip: ClipInfo
    seeds: Tensor
    positions: Tensor


class TextEncoder(Protocol):
    """Turns prompts into a `TextCondition`.

    max_length: L; longer prompts are cut.
    width: Dt.
    pooled_width: Dp.
    """

    max_length: int
    width: int
    pooled_width: int

    def encode(self, prompts: list[str]) -> TextCondition:
        """One row per prompt. The empty prompt is the unconditional one and must be accepted."""
        ...

    def num_tokens(self, prompt: str) -> int:
        """How many tokens the prompt has before it is cut to `max_length`."""
        ...


class Autoencoder(Protocol):
    """Turns clips into latents and back.

    stride: pixels per latent cell along (time, height, width).
    channels: channels of the latents.
    """

    stride: tuple[int, int, int]
    channels: int

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] in [-1, 1] to latents [B, C, F/st, H/sh, W/sw] of about unit scale."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to [B, 3, F, H, W], of which [-1, 1] is the visible range."""
        ...
