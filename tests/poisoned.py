"""Shards in which some samples have latents that no training should take in."""

from collections.abc import Iterator
from pathlib import Path

from preprocessed import other_shards

from data.dataset_info import DatasetInfo
from data.shards import ShardReader, StoredSample


def poisoned(shards: Path, folder: Path, factors: dict[str, float]) -> Path:
    """The same, with the latents of these ids times these factors."""

    def samples(name: str) -> Iterator[StoredSample]:
        for sample in ShardReader(shards / name):
            yield sample._replace(latents=sample.latents * factors.get(sample.id, 1.0))

    infos = DatasetInfo.read(shards).shards
    return other_shards(shards, folder, {name: (samples(name), shard.bucket) for name, shard in infos.items()})
