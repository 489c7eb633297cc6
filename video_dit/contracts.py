"""What the rooms hand to each other: texts, latents, batches, the two kinds of encoder and the shapes they make.

These stand below every room, so that `data` can use an encoder that it was given without knowing `video_dit.encoders`,
and training can read batches without knowing `data`.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from video_dit.shapes import Grid, latent_grid


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
    places: [B, 2] int64, where a sample stands in the batch of its step, and how many samples that has.
    ids: B, of the samples.
    """

    latents: Tensor
    text: TextCondition
    clip: ClipInfo
    seeds: Tensor
    places: Tensor
    ids: tuple[str, ...]


class TextSegment(NamedTuple):
    """The part of a `TextCondition` that is one text encoder's own, so that it can be dropped alone.

    Ranges are (start, stop). Encoders that are joined along channels share their tokens.

    tokens: of L.
    channels: of Dt.
    pooled: of Dp; empty where the encoder gives no pooled vector.
    name: the encoder's, as a user knows it.
    """

    tokens: tuple[int, int]
    channels: tuple[int, int]
    pooled: tuple[int, int]
    name: str

    @property
    def max_tokens(self) -> int:
        """Longer prompts are cut."""
        return self.tokens[1] - self.tokens[0]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TextSegment":
        """What `_asdict` gave, after JSON has made lists of its ranges."""
        tokens, channels, pooled = (tuple(values[key]) for key in ("tokens", "channels", "pooled"))
        return cls(tokens, channels, pooled, values["name"])


class TextEncoder(Protocol):
    """Turns prompts into a `TextCondition`.

    max_length: L.
    width: Dt.
    pooled_width: Dp.
    segments: whose part is whose; one for each encoder that is joined in this one.
    """

    max_length: int
    width: int
    pooled_width: int
    segments: tuple[TextSegment, ...]

    def encode(self, prompts: list[str]) -> TextCondition:
        """One row per prompt. The empty prompt is the unconditional one and must be accepted."""
        ...

    def num_tokens(self, prompt: str) -> tuple[int, ...]:
        """For each segment, how many tokens the prompt has before it is cut."""
        ...

    def to(self, device: torch.device) -> None:
        """Moves the weights, if there are any; what `encode` returns is where they are."""
        ...


class Posterior(NamedTuple):
    """What an autoencoder says of the latents of clips: a Gaussian, in normalized units (Kingma and Welling 2014).

    mean: [B, C, F, H, W] float, of about unit scale.
    std: [B, C, F, H, W] float; None where the latents are the mean itself.
    """

    mean: Tensor
    std: Tensor | None

    def joined(self) -> Tensor:
        """Mean and, where there is one, standard deviation side by side along the channels."""
        return self.mean if self.std is None else torch.cat((self.mean, self.std), dim=1)

    @classmethod
    def of_joined(cls, both: Tensor, channels: int) -> "Posterior":
        """The inverse of `joined`, for latents of this many channels."""
        return cls(both[:, :channels], both[:, channels:] if both.shape[1] > channels else None)


class Autoencoder(Protocol):
    """Turns clips into latents and back.

    stride: pixels per latent cell along (time, height, width).
    channels: channels of the latents.
    causal: the first frame is a latent frame of its own, and groups of `stride[0]` follow.
    frame_step: a clip, after that first frame, has a multiple of so many frames; itself a multiple of `stride[0]`.
    streams: goes through time in steps, so that a long clip takes no more memory than a short one.
    """

    stride: tuple[int, int, int]
    channels: int
    causal: bool
    frame_step: int
    streams: bool

    def encode(self, pixels: Tensor) -> Posterior:
        """[B, 3, F, H, W] in [-1, 1] to latents [B, C, *latent_grid]. Draws nothing at random."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to [B, 3, F, H, W], of which [-1, 1] is the visible range."""
        ...

    def to(self, device: torch.device) -> None:
        """Moves the weights, if there are any; what `encode` and `decode` return is where they are."""
        ...


class EncodedShape(NamedTuple):
    """What the encoders make of a clip and its caption: all that a model has to know of them.

    channels: C of the latents.
    grid: of the latents of a clip.
    text_length, text_width, pooled_width: L, Dt, Dp.
    segments: of the text.
    """

    channels: int
    grid: Grid
    text_length: int
    text_width: int
    pooled_width: int
    segments: tuple[TextSegment, ...]

    @classmethod
    def of(cls, pixels: Grid, autoencoder: Autoencoder, text_encoder: TextEncoder) -> "EncodedShape":
        """For clips of this many pixels.

        Raises:
            UserError: the autoencoder does not take clips of this size.
        """
        return cls(
            autoencoder.channels,
            latent_grid(pixels, autoencoder),
            text_encoder.max_length,
            text_encoder.width,
            text_encoder.pooled_width,
            text_encoder.segments,
        )


def truncated_by(text_encoder: TextEncoder, prompt: str) -> list[tuple[TextSegment, int]]:
    """The encoders that cut the prompt, each with how many tokens it has for them."""
    counts = zip(text_encoder.segments, text_encoder.num_tokens(prompt), strict=True)
    return [(segment, count) for segment, count in counts if count > segment.max_tokens]
