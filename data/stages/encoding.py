"""Decodes clips at their bucket's size, and encodes them and their captions."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from data.decoders import Size
from data.latents import encode
from data.shards import Cut, StoredSample
from data.sources.captions import Caption
from data.video import Window, cover_and_crop
from video_dit.config import AutoencoderConfig, CaptionerConfig, TextEncoderConfig
from video_dit.contracts import Autoencoder, ClipInfo, Posterior, TextCondition, TextEncoder
from video_dit.shapes import Grid

CLIPS_PER_BATCH = 16
"""That are held in memory, and whose captions are encoded together."""

PIXELS_PER_BATCH = 1 << 21
"""Of clips that are encoded together: enough for a GPU, and so few that a CPU finds the same memory again and again. To
ask the system for more took longer than to encode pixels."""

Named = tuple[str, tuple[Caption, ...]]
"""A clip's id and its captions."""


class EncoderSource(NamedTuple):
    """How a process comes by its encoders: the functions that build them and tell them apart, and their tables."""

    build_autoencoder: Callable[[AutoencoderConfig, torch.device], Autoencoder]
    build_text_encoder: Callable[[TextEncoderConfig, torch.device], TextEncoder]
    fingerprint: Callable[[AutoencoderConfig | TextEncoderConfig | CaptionerConfig], str | None]
    autoencoder: AutoencoderConfig
    text_encoder: TextEncoderConfig

    def fingerprints(self) -> dict[str, str | None]:
        """By the names of the tables; None where the files of a pretrained encoder are not on this machine."""
        return {name: self.fingerprint(getattr(self, name)) for name in ("autoencoder", "text_encoder")}

    def identity(self) -> list[object]:
        """What names the encoders, as JSON can hold it."""
        return [self.autoencoder.model_dump(), self.text_encoder.model_dump(), self.fingerprints()]


@lru_cache(maxsize=1)
def load_encoders(source: EncoderSource) -> tuple[Autoencoder, TextEncoder]:
    """Once in a process, on its GPU where it has one.

    Raises:
        UserError: a model is not there, or is none that can be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return (
        source.build_autoencoder(source.autoencoder, device),
        source.build_text_encoder(source.text_encoder, device),
    )


def encode_clips(
    windows: Sequence[Window], named: Sequence[Named], fps: float, autoencoder: Autoencoder, text_encoder: TextEncoder
) -> Iterator[StoredSample]:
    """Clips of one bucket; what has no caption gets the empty one."""
    texts = _encode_captions([captions for _, captions in named], text_encoder)
    latents = _latents(windows, autoencoder)
    for window, (name, captions), (mean, std), text in zip(windows, named, latents, texts, strict=True):
        clip = _clip_info(fps, window.source_size, window.crop)
        yield StoredSample(name, *_shown(captions), mean, std, text, clip)


def _latents(windows: Sequence[Window], autoencoder: Autoencoder) -> Iterator[Posterior]:
    """Of each clip."""
    size = max(1, PIXELS_PER_BATCH // math.prod(windows[0].frames.shape[:3]))
    for start in range(0, len(windows), size):
        frames = np.stack([window.frames for window in windows[start : start + size]])
        mean, std = encode(torch.from_numpy(frames), autoencoder)
        for index in range(len(mean)):
            yield Posterior(mean[index].cpu(), None if std is None else std[index].cpu())


def keep_clips(
    cuts: Sequence[Cut],
    named: Sequence[Named],
    sizes: Sequence[Size],
    grid: Grid,
    fps: float,
    text_encoder: TextEncoder,
) -> list[StoredSample]:
    """Their places in place of latents.

    Args:
        sizes: of the videos, as they are shown.
    """
    texts = _encode_captions([captions for _, captions in named], text_encoder)
    samples = []
    for index, (name, captions) in enumerate(named):
        _, crop = cover_and_crop(sizes[index], (grid.height, grid.width))
        clip = _clip_info(fps, sizes[index], crop)
        samples.append(StoredSample(name, *_shown(captions), None, None, texts[index], clip, cuts[index]))
    return samples


def _encode_captions(captions: Sequence[tuple[Caption, ...]], text_encoder: TextEncoder) -> list[TextCondition]:
    """Of each clip, all at once."""
    shown = [_shown(of_clip)[0] for of_clip in captions]
    together = _on_cpu(text_encoder.encode([text for texts in shown for text in texts]))
    parts = (tensor.split([len(texts) for texts in shown]) for tensor in together)
    return [TextCondition(*of_clip) for of_clip in zip(*parts, strict=True)]


def _shown(captions: tuple[Caption, ...]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Texts and weights."""
    texts, weights = zip(*(captions or (Caption("", 1.0),)), strict=True)
    return texts, weights


def _clip_info(fps: float, size: Size, crop: tuple[int, int]) -> ClipInfo:
    return ClipInfo(*(torch.tensor(value, dtype=torch.float32) for value in (fps, size, crop)))


def prompt_alone(prompt: str, text_encoder: TextEncoder) -> StoredSample:
    """A sample without latents."""
    return StoredSample(
        "", (prompt,), (1.0,), None, None, _on_cpu(text_encoder.encode([prompt])), _clip_info(0, (0, 0), (0, 0))
    )


def _on_cpu(condition: TextCondition) -> TextCondition:
    return TextCondition(*(tensor.cpu() for tensor in condition))
