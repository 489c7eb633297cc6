"""Decodes clips at their bucket's size, and encodes them and their captions."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.decoders import read_frames
from data.latents import encode
from data.probe import VideoError, VideoInfo
from data.shards import StoredSample
from data.sources.captions import Caption
from data.video import Window, cover
from video_dit.config import AutoencoderConfig, DataConfig, TextEncoderConfig
from video_dit.contracts import Autoencoder, ClipInfo, TextCondition, TextEncoder
from video_dit.shapes import Grid

CLIPS_PER_BATCH = 16
"""That are held in memory and encoded together."""


class EncoderSource(NamedTuple):
    """How a process comes by its encoders: the functions that build them and tell them apart, and their tables."""

    build_autoencoder: Callable[[AutoencoderConfig, torch.device], Autoencoder]
    build_text_encoder: Callable[[TextEncoderConfig, torch.device], TextEncoder]
    fingerprint: Callable[[AutoencoderConfig | TextEncoderConfig], str | None]
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


def read_clips(
    path: Path, info: VideoInfo, starts: Sequence[float], grid: Grid, config: DataConfig
) -> Iterator[tuple[int, Window]]:
    """The clips of one video that start at these seconds, each with its index, as they are complete.

    The frame at time start + k / fps is the one that a player would show then. Clips that overlap share what is
    decoded.

    Raises:
        VideoError: decoding fails, or the video ends before the last clip does; what was complete has been yielded.
    """
    size = cover(info.size, (grid.height, grid.width))
    top, left = (size[0] - grid.height) // 2, (size[1] - grid.width) // 2
    wanted = sorted((start + k / config.fps, index) for index, start in enumerate(starts) for k in range(grid.frames))
    frames: dict[int, list[np.ndarray]] = {index: [] for index in range(len(starts))}
    pictures = read_frames(path, info, (time for time, _ in wanted), size, config.decoder, config.limits)
    for picture, (_, index) in zip(pictures, wanted, strict=False):
        frames[index].append(picture.pixels[top : top + grid.height, left : left + grid.width])
        if len(frames[index]) == grid.frames:
            yield index, Window(np.stack(frames.pop(index)), info.size, (top, left))
    if frames:
        raise VideoError(f"ends before its clip at {min(starts[index] for index in frames):.2f} seconds does")


def encode_clips(
    windows: Sequence[Window], named: Sequence[tuple[str, tuple[Caption, ...]]], fps: float, autoencoder: Autoencoder,
    text_encoder: TextEncoder,
) -> list[StoredSample]:  # fmt: skip
    """Clips of one bucket, all at once.

    Args:
        named: the id and the captions of each; what has no caption gets the empty one.
    """
    mean, std = encode(torch.from_numpy(np.stack([window.frames for window in windows])), autoencoder)
    captions = [own or (Caption("", 1.0),) for _, own in named]
    texts = _on_cpu(text_encoder.encode([caption.text for own in captions for caption in own]))
    samples: list[StoredSample] = []
    first = 0
    for index, (window, (name, _), own) in enumerate(zip(windows, named, captions, strict=True)):
        text = TextCondition(*(tensor[first : first + len(own)] for tensor in texts))
        first += len(own)
        sizes = (fps, window.source_size, window.crop)
        clip = ClipInfo(*(torch.tensor(value, dtype=torch.float32) for value in sizes))
        words, weights = zip(*own, strict=True)
        deviation = None if std is None else std[index].cpu()
        samples.append(StoredSample(name, words, weights, mean[index].cpu(), deviation, text, clip))
    return samples


def prompt_alone(prompt: str, text_encoder: TextEncoder) -> StoredSample:
    """A sample without latents."""
    clip = ClipInfo(torch.zeros(()), torch.zeros(2), torch.zeros(2))
    return StoredSample("", (prompt,), (1.0,), torch.zeros(0), None, _on_cpu(text_encoder.encode([prompt])), clip)


def _on_cpu(condition: TextCondition) -> TextCondition:
    return TextCondition(*(tensor.cpu() for tensor in condition))
