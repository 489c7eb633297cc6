"""Shards: Arrow IPC files with one record batch per sample, read through a memory map.

A folder of shards holds:

- dataset.json: what it was made with and how much of it there is; written last
- empty_prompt.arrow: the text encoder's answer to "", one sample without latents
- shard-8x32x32-00000-0123abcd.arrow: samples of one shape, each with all of its captions
- videos.parquet, clips.parquet: what became of each input and of each clip; see data/report/tables.py
- report.html: the same, to look at
- example_prompts.txt: captions, to try a run with
- work/: what each unit of preprocessing gave, so that nothing is done twice; training does not need it
"""

import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.dataset_info import ShardInfo, checksum
from data.latents import STORED, draw_latents
from data.storage import Place
from video_dit.contracts import ClipInfo, TextCondition
from video_dit.errors import UserError

_SCHEMA = pa.schema(
    [("id", pa.string()), ("captions", pa.list_(pa.string())), ("weights", pa.list_(pa.float64()))]
    + [(name, pa.binary()) for name in ("latents", "latents_std", "embeds", "mask", "pooled")]
    + [("latents_shape", pa.list_(pa.int32())), ("embeds_shape", pa.list_(pa.int32()))]
    + [("fps", pa.float32()), ("size", pa.list_(pa.float32(), 2)), ("crop", pa.list_(pa.float32(), 2))]
    + [("location", pa.binary()), ("bytes", pa.int64()), ("offset", pa.int64()), ("start", pa.float64())]
)


class Cut(NamedTuple):
    """A clip in its video: where the video is, and seconds from its first frame; the rate is that of [data]."""

    place: Place
    start: float


class Sample(NamedTuple):
    """One clip with one caption, in float32. latents [C, F, H, W]; text: embeds [L, Dt], mask [L], pooled [Dp].

    Of shards that hold videos there are no latents, and `cut` says where the clip is.
    """

    id: str
    caption: str
    latents: Tensor | None
    text: TextCondition
    clip: ClipInfo
    cut: Cut | None


class StoredSample(NamedTuple):
    """One clip, encoded, with all K of its captions and how often each is shown. Floats are kept in bf16.

    captions, weights: K of each; the weights are above 0.
    latents: [C, F, H, W], the mean of the posterior; None where shards hold videos.
    latents_std: alike; None where the autoencoder has none.
    text: embeds [K, L, Dt], mask [K, L], pooled [K, Dp].
    clip: of one.
    cut: in place of latents: where the clip is in its video.
    """

    id: str
    captions: tuple[str, ...]
    weights: tuple[float, ...]
    latents: Tensor | None
    latents_std: Tensor | None
    text: TextCondition
    clip: ClipInfo
    cut: Cut | None = None

    def show(self, u: float, seed: int) -> Sample:
        """With the caption in whose share of the weights u lies, in [0, 1), and latents of the sample's seed."""
        bounds = list(accumulate(self.weights))
        index = bisect_right(bounds, u * bounds[-1], hi=len(bounds) - 1)
        embeds, mask, pooled = (tensor[index] for tensor in self.text)
        text = TextCondition(embeds.float(), mask, pooled.float())
        latents = None if self.latents is None else draw_latents(self.latents, self.latents_std, seed)
        return Sample(self.id, self.captions[index], latents, text, self.clip, self.cut)


def shard_of(samples: Iterable[StoredSample], bucket: str) -> tuple[memoryview, ShardInfo]:
    """The content of a file, and what `dataset.json` says of it.

    Args:
        samples: all of one shape; one after another is held.
        bucket: that shape's name.
    """
    file, count = io.BytesIO(), 0  # which grows without copying, unlike Arrow's
    with pa.ipc.new_file(file, _SCHEMA) as writer:
        for sample in samples:
            writer.write_batch(_batch(sample))
            count += 1
    content = file.getbuffer()
    return content, ShardInfo(count, bucket, len(content), checksum([content]))


class ShardReader:
    """Random access to the samples of one shard."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): preprocess again") from error
        if missing := set(_SCHEMA.names) - set(self._file.schema.names):
            raise UserError(
                f"{path} has no {', '.join(sorted(missing))}, as shards of another version: preprocess with --overwrite"
            )

    def __len__(self) -> int:
        return int(self._file.num_record_batches)

    def __iter__(self) -> Iterator[StoredSample]:
        return (self[index] for index in range(len(self)))

    def ids(self) -> list[str]:
        return [self._file.get_batch(index)["id"][0].as_py() for index in range(len(self))]

    def __getitem__(self, index: int) -> StoredSample:
        (row,) = self._file.get_batch(index).to_pylist()
        captions, weights = tuple(row["captions"]), tuple(row["weights"])
        embeds = _bf16(row["embeds"]).reshape(row["embeds_shape"])
        mask, pooled = _tensor(row["mask"], np.bool_), _bf16(row["pooled"])
        text = TextCondition(embeds, mask.reshape(len(captions), -1), pooled.reshape(len(captions), -1))
        latents, std = (
            None if row[name] is None else _bf16(row[name]).reshape(row["latents_shape"])
            for name in ("latents", "latents_std")
        )
        clip = torch.tensor([row["fps"], *row["size"], *row["crop"]])
        info = ClipInfo(clip[0], clip[1:3], clip[3:5])
        return StoredSample(row["id"], captions, weights, latents, std, text, info, _cut(row))


def _batch(sample: StoredSample) -> pa.RecordBatch:
    """Of one row. The tensors are not copied."""
    latents, std, cut = sample.latents, sample.latents_std, sample.cut
    tensors = {
        "latents": None if latents is None else _bytes(latents),
        "latents_std": None if std is None else _bytes(std),
        "embeds": _bytes(sample.text.embeds),
        "mask": memoryview(sample.text.mask.numpy()).cast("B"),
        "pooled": _bytes(sample.text.pooled),
    }
    others = {
        "id": sample.id,
        "captions": list(sample.captions),
        "weights": list(sample.weights),
        "latents_shape": None if latents is None else list(latents.shape),
        "embeds_shape": list(sample.text.embeds.shape),
        **{name: value.tolist() for name, value in sample.clip._asdict().items()},
        "location": cut and os.fsencode(cut.place.location),  # not each file's name is UTF-8
        "bytes": cut and cut.place.size,
        "offset": cut and cut.place.offset,
        "start": cut and cut.start,
    }
    columns = [
        _one_binary(tensors[field.name]) if field.name in tensors else pa.array([others[field.name]], field.type)
        for field in _SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _one_binary(value: memoryview | None) -> pa.Array:
    """An array of this value. Made of it by `pa.array`, PyArrow would keep the value's memory for good."""
    if value is None:
        return pa.nulls(1, pa.binary())
    offsets = np.array([0, len(value)], np.int32)
    return pa.Array.from_buffers(pa.binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(value)])


def _cut(row: dict[str, Any]) -> Cut | None:
    location, *place, start = (row[name] for name in ("location", "bytes", "offset", "start"))
    return None if location is None else Cut(Place(os.fsdecode(location), *place), start)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.to(STORED).contiguous().view(torch.int16).numpy()).cast("B")  # NumPy has no bfloat16


def _bf16(content: bytes) -> Tensor:
    return _tensor(content, np.int16).view(STORED)  # NumPy has no bfloat16


def _tensor(content: bytes, dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype).copy())  # what Arrow gives is read-only
