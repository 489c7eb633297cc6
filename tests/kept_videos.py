"""Shards that hold the places of videos, in place of the latents of others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from preprocessed import write_shard

from data.dataset_info import DatasetInfo
from data.shards import Cut, ShardReader
from data.storage import Place


def keep_videos(shards: Path, videos: Path, folder: Path, locate: Callable[[Path], Place] | None = None) -> Path:
    """Of clips that are cut end to end from whole files; `locate` says where a file is, if not in `videos`."""
    info = DatasetInfo.read(shards)
    folder.mkdir(parents=True)
    written = {}
    for name, shard in info.shards.items():
        samples = []
        for sample in ShardReader(shards / name):
            file, _, window = sample.id.rpartition("#")
            path = videos / file
            place = locate(path) if locate else Place(str(path), path.stat().st_size)
            start = int(window) * info.buckets[shard.bucket].pixels.frames / info.tables["data"]["fps"]
            samples.append(sample._replace(latents=None, latents_std=None, cut=Cut(place, start)))
        written[name] = write_shard(folder / name, samples, shard.bucket)
    (folder / "dataset.json").write_bytes(replace(info, shards=written, holds="videos").to_bytes())
    for name in ("empty_prompt.arrow", "example_prompts.txt"):
        (folder / name).write_bytes((shards / name).read_bytes())
    return folder
