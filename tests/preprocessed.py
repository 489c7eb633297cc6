"""Preprocessing as scripts/preprocess.py does it, in this process."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from data.dataset_info import DatasetInfo, Holds, ShardInfo
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


Shards = Mapping[str, tuple[Iterable[StoredSample], str]]
"""By the names of files: their samples, and their bucket's name."""


def other_shards(shards: Path, folder: Path, written: Shards, **changes: Any) -> Path:
    """A folder of shards as that one, but for these files and these changes of dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = {name: write_shard(folder / name, list(samples), bucket) for name, (samples, bucket) in written.items()}
    info = replace(DatasetInfo.read(shards), shards=infos, **changes)
    (folder / "dataset.json").write_bytes(info.to_bytes())
    for name in (info.empty_prompt, "example_prompts.txt"):
        (folder / name).write_bytes((shards / name).read_bytes())
    return folder
