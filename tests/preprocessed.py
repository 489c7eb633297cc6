"""Preprocessing as scripts/preprocess.py does it, in this process."""

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

from data.dataset_info import Holds, ShardInfo
from data.engine import Engine, InProcess
from data.preprocess import preprocess
from data.preprocessing import ShowProgress
from data.shards import StoredSample, shard_of
from data.stages.encoding import EncoderSource
from video_dit.config import Config
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.encoders.fingerprint import encoder_fingerprint

unseen: ShowProgress = lambda label, counted, total: nullcontext(MagicMock())  # noqa: E731


def encoder_source(config: Config) -> EncoderSource:
    return EncoderSource(
        build_autoencoder, build_text_encoder, encoder_fingerprint, config.autoencoder, config.text_encoder
    )


def preprocess_here(
    source: Path | str, out: Path | str, config: Config, overwrite: bool = False, engine: Engine | None = None,
    holds: Holds = "latents",
) -> str | None:  # fmt: skip
    """The summary; None where there was nothing to do."""
    command = "python scripts/preprocess.py"
    return preprocess(
        str(source),
        str(out),
        config,
        encoder_source(config),
        nullcontext(engine or InProcess()),
        overwrite,
        holds,
        unseen,
        command,
    )


def write_shard(path: Path, samples: list[StoredSample], bucket: str) -> ShardInfo:
    content, info = shard_of(samples, bucket)
    path.write_bytes(content)
    return info
