"""Shards of clips of two shapes, cut out of those of one."""

from pathlib import Path

from preprocessed import other_shards

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
    written = {
        "a.arrow": (small[::2], bucket.name),
        "b.arrow": (samples[small_clips:], large.name),
        "c.arrow": (small[1::2], bucket.name),
    }
    return other_shards(shards, folder, written, buckets={large.name: large, bucket.name: bucket})
