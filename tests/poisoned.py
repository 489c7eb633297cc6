"""Shards in which some samples have latents that no training should take in."""

from dataclasses import replace
from pathlib import Path

from preprocessed import write_shard

from data.dataset_info import DatasetInfo
from data.shards import ShardReader


def poisoned(shards: Path, folder: Path, factors: dict[str, float]) -> Path:
    """The same, with the latents of these ids times these factors."""
    info = DatasetInfo.read(shards)
    folder.mkdir(parents=True)
    written = {}
    for name, shard in info.shards.items():
        samples = [
            sample._replace(latents=sample.latents * factors.get(sample.id, 1.0))
            for sample in ShardReader(shards / name)
        ]
        written[name] = write_shard(folder / name, samples, shard.bucket)
    (folder / "dataset.json").write_bytes(replace(info, shards=written).to_bytes())
    for name in ("empty_prompt.arrow", "example_prompts.txt"):
        (folder / name).write_bytes((shards / name).read_bytes())
    return folder
