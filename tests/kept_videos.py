"""Shards that hold the places of videos, in place of the latents of others."""

from collections.abc import Callable, Iterator
from pathlib import Path

from preprocessed import other_shards

from data.dataset_info import DatasetInfo
from data.shards import Cut, ShardReader, StoredSample
from data.storage import Place


def keep_videos(shards: Path, videos: Path, folder: Path, locate: Callable[[Path], Place] | None = None) -> Path:
    """Of clips that are cut end to end from whole files; `locate` says where a file is, if not in `videos`."""
    info = DatasetInfo.read(shards)

    def samples(name: str, seconds: float) -> Iterator[StoredSample]:
        for sample in ShardReader(shards / name):
            file, _, window = sample.id.rpartition("#")
            path = videos / file
            place = locate(path) if locate else Place(str(path), path.stat().st_size)
            yield sample._replace(latents=None, latents_std=None, cut=Cut(place, int(window) * seconds))

    written = {}
    for name, shard in info.shards.items():
        seconds = info.buckets[shard.bucket].pixels.frames / info.tables["data"]["fps"]
        written[name] = samples(name, seconds), shard.bucket
    return other_shards(shards, folder, written, holds="videos")
