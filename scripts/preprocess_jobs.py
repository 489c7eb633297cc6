"""What preprocess.py and train.py need to turn videos into shards."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from command_line import progress_bar
from tqdm import tqdm

from data.engine import local_engine
from data.preprocess import preprocess
from data.stages.encoding import EncoderSource
from video_dit.config import Config
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.encoders.fingerprint import encoder_fingerprint

TIME_LIMIT = 120.0
"""Seconds for a video in a stage, besides as many as it lasts."""


def encoder_source(config: Config) -> EncoderSource:
    return EncoderSource(
        build_autoencoder, build_text_encoder, encoder_fingerprint, config.autoencoder, config.text_encoder
    )


def default_workers() -> int:
    """One for each GPU, or else for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.cuda.device_count() or cores


@contextmanager
def show_progress(label: str, counted: str, total: int) -> Iterator[tqdm]:
    with progress_bar(total=total, unit=counted, label=label) as bar:
        yield bar


def this_command() -> str:
    """What a shell runs to do the same again."""
    return shlex.join(["python", *sys.argv])


def keep_videos(source: Path, folder: Path, config: Config) -> None:
    """Prepares videos for training that decodes them: shards that hold their places, in `folder`.

    Raises:
        UserError: the source cannot be used, or `folder` holds shards of other videos or settings.
    """
    engine = local_engine(default_workers(), TIME_LIMIT, torch.cuda.device_count())
    made = preprocess(
        str(source), str(folder), config, encoder_source(config), engine, False, "videos", show_progress, this_command()
    )
    if made is not None:
        print(made)
