"""Shards of clips of two shapes, cut out of those of one."""

from dataclasses import replace
from pathlib import Path

from preprocessed import write_shard

from data.dataset_info import Bucket, DatasetInfo
from data.shards import ShardReader
from video_dit.shapes import Grid

SMALL = Grid(2, 16, 8)


def two_buckets(shards: Path, folder: Path, *, small_clips: int = 20) -> Path:
    """Pixel latents as they are, and the first of them cut to `SMALL`; three files, of which two hold small ones."""
    info = DatasetInfo.read(shards)
    samples = [sample for name in info.shards for sample in ShardReader(shards / name)]
    small = [
        sample._replace(latents=sample.latents[:, : SMALL.frames, :, : SMALL.width]) for sample in samples[:small_clips]
    ]
    bucket = Bucket(SMALL, SMALL)
    (large,) = info.buckets.values()
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "a.arrow": write_shard(folder / "a.arrow", small[::2], bucket.name),
        "b.arrow": write_shard(folder / "b.arrow", samples[small_clips:], large.name),
        "c.arrow": write_shard(folder / "c.arrow", small[1::2], bucket.name),
    }
    (folder / "dataset.json").write_bytes(
        replace(info, shards=written, buckets={large.name: large, bucket.name: bucket}).to_bytes()
    )
    for name in ("empty_prompt.arrow", "example_prompts.txt"):
        (folder / name).write_bytes((shards / name).read_bytes())
    return folder
