"""Decodes clips at their bucket's size, and encodes them and their captions."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.decoders import Size, read_frames
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
    """How a process comes by its encoders: the functions that build them, and their tables."""

    build_autoencoder: Callable[[AutoencoderConfig, torch.device], Autoencoder]
    build_text_encoder: Callable[[TextEncoderConfig, torch.device], TextEncoder]
    autoencoder: AutoencoderConfig
    text_encoder: TextEncoderConfig


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

    The frame at time start + k / fps is the one that a player would show then. Clips that overlap share what is decoded.

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
    windows: Sequence[Window], ids: Sequence[str], captions: Sequence[tuple[Caption, ...]], fps: float,
    autoencoder: Autoencoder, text_encoder: TextEncoder,
) -> list[StoredSample]:
    """Clips of one bucket, all at once; what has no caption gets the empty one."""  # fmt: skip
    mean, std = encode(torch.from_numpy(np.stack([window.frames for window in windows])), autoencoder)
    shown = [own or (Caption("", 1.0),) for own in captions]
    texts = text_encoder.encode([caption.text for own in shown for caption in own])
    samples, first = [], 0
    for index, (window, own) in enumerate(zip(windows, shown, strict=True)):
        text = TextCondition(*(tensor[first : first + len(own)].cpu() for tensor in texts))
        first += len(own)
        sizes = (fps, window.source_size, window.crop)
        clip = ClipInfo(*(torch.tensor(value, dtype=torch.float32) for value in sizes))
        words, weights = zip(*own, strict=True)
        deviation = None if std is None else std[index].cpu()
        samples.append(StoredSample(ids[index], words, weights, mean[index].cpu(), deviation, text, clip))
    return samples
