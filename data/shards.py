"""Shards: Arrow IPC files, read through a memory map.

A folder of shards holds:

- dataset.json: what it was made with and how much of it there is; written last
- empty_prompt-0123abcd.arrow: the text encoder's answer to "", one sample without latents
- shard-8x32x32-00000-0123abcd.arrow: samples of one shape, each with all of its captions
- videos.parquet, clips.parquet: what became of each input and of each clip; see data/report/tables.py
- report.html: the same, to look at
- example_prompts.txt: captions, to try a run with
- work/: what each unit of preprocessing gave, so that nothing is done twice; training does not need it
"""

import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.dataset_info import ShardInfo, checksum
from data.latents import STORED, draw_latents
from data.storage import Place
from video_dit.contracts import ClipInfo, TextCondition
from video_dit.errors import UserError

ROWS = 64
"""Samples in a record batch, but for a shard's last one: so many are held in memory until they are written."""

_BF16 = pa.large_list(pa.int16())  # Arrow has no bfloat16
_SCHEMA = pa.schema(
    [("id", pa.string()), ("captions", pa.list_(pa.string())), ("weights", pa.list_(pa.float64()))]
    + [(name, _BF16) for name in ("latents", "latents_std", "embeds", "pooled")]
    + [("mask", pa.large_list(pa.uint8()))]
    + [("latents_shape", pa.list_(pa.int32(), 4)), ("token_shape", pa.list_(pa.int32(), 2))]
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
        samples: all of one shape, with latents or all without; `ROWS` of them are held.
        bucket: that shape's name.
    """
    file, count, remaining = io.BytesIO(), 0, iter(samples)  # the file grows without copying, unlike Arrow's
    with pa.ipc.new_file(file, _SCHEMA) as writer:
        while written := _write_rows(writer, list(islice(remaining, ROWS))):
            count += written
    content = file.getbuffer()
    return content, ShardInfo(count, bucket, len(content), checksum([content]))


class ShardReader:
    """Random access to the samples of one shard.

    The map of its file stays, the descriptor does not: there may be more shards than a process may have open files.
    """

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as file:
                content = file.read_buffer()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise UserError(f"{path} cannot be opened ({reason}): mend that, and give the command again") from error
        try:
            self._file = pa.ipc.open_file(content)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and preprocess again") from error
        if differing := {field.name for field in set(self._file.schema) ^ set(_SCHEMA)}:
            raise UserError(
                f"{path} has other columns than shards of this version ({', '.join(sorted(differing))}): preprocess "
                "with --overwrite"
            )
        self._rows: dict[int, _Rows] = {}

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches())

    def __iter__(self) -> Iterator[StoredSample]:
        return (self[index] for index in range(len(self)))

    def ids(self) -> list[str]:
        return [sample_id for batch in self._batches() for sample_id in batch["id"].to_pylist()]

    def __getitem__(self, index: int) -> StoredSample:
        """Its tensors are views of the file, which cannot be written to."""
        number, row = divmod(index, ROWS)
        if number not in self._rows:
            self._rows[number] = _Rows(self._file.get_batch(number))
        return self._rows[number][row]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        return (self._file.get_batch(number) for number in range(self._file.num_record_batches))


class _Rows:
    """A record batch as samples. What its columns are is found out once: that takes longer than to read one of them."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self._ids, self._captions, self._weights = (columns[name] for name in ("id", "captions", "weights"))
        self._places = [columns[name] for name in ("location", "bytes", "offset", "start")]
        self._first_caption = self._captions.offsets.to_pylist()
        captions = self._first_caption[-1]
        self._text = TextCondition(
            _values(columns["embeds"]).view(STORED).reshape(captions, *columns["token_shape"][0].as_py()),
            _values(columns["mask"]).view(torch.bool).reshape(captions, -1),
            _values(columns["pooled"]).view(STORED).reshape(captions, len(columns["pooled"].values) // captions),
        )
        self._latents, self._latents_std = (
            None
            if columns[name].null_count
            else _values(columns[name]).view(STORED).reshape(-1, *columns["latents_shape"][0].as_py())
            for name in ("latents", "latents_std")
        )
        size, crop = (_values(columns[name]).reshape(-1, 2) for name in ("size", "crop"))
        self._clip = ClipInfo(torch.from_dlpack(columns["fps"]), size, crop)

    def __getitem__(self, row: int) -> StoredSample:
        captions = slice(*self._first_caption[row : row + 2])
        location, *place, start = (column[row].as_py() for column in self._places)
        return StoredSample(
            self._ids[row].as_py(),
            tuple(self._captions[row].as_py()),
            tuple(self._weights[row].as_py()),
            None if self._latents is None else self._latents[row],
            None if self._latents_std is None else self._latents_std[row],
            TextCondition(*(tensor[captions] for tensor in self._text)),
            ClipInfo(*(tensor[row] for tensor in self._clip)),
            None if location is None else Cut(Place(os.fsdecode(location), *place), start),
        )


def _values(lists: pa.Array) -> Tensor:
    """Of all rows, one after another."""
    return torch.from_dlpack(lists.values)


def _write_rows(writer: pa.RecordBatchFileWriter, samples: Sequence[StoredSample]) -> int:
    """How many there are. The caller keeps none of them while the next ones are made."""
    if samples:
        writer.write_batch(_record_batch(samples))
    return len(samples)


def _record_batch(samples: Sequence[StoredSample]) -> pa.RecordBatch:
    texts, clips, cuts = zip(*((sample.text, sample.clip, sample.cut) for sample in samples), strict=True)
    columns = {
        "id": [sample.id for sample in samples],
        "captions": [sample.captions for sample in samples],
        "weights": [sample.weights for sample in samples],
        "latents": _bf16_lists([sample.latents for sample in samples]),
        "latents_std": _bf16_lists([sample.latents_std for sample in samples]),
        "embeds": _bf16_lists([text.embeds for text in texts]),
        "pooled": _bf16_lists([text.pooled for text in texts]),
        "mask": _lists([text.mask.flatten().view(torch.uint8) for text in texts]),
        "latents_shape": [None if sample.latents is None else sample.latents.shape for sample in samples],
        "token_shape": [text.embeds.shape[1:] for text in texts],
        **{
            name: [value.tolist() for value in values]
            for name, values in zip(ClipInfo._fields, zip(*clips, strict=True), strict=True)
        },
        "location": [cut and os.fsencode(cut.place.location) for cut in cuts],  # not each file's name is UTF-8
        "bytes": [cut and cut.place.size for cut in cuts],
        "offset": [cut and cut.place.offset for cut in cuts],
        "start": [cut and cut.start for cut in cuts],
    }
    return pa.RecordBatch.from_pydict(columns, schema=_SCHEMA)


def _bf16_lists(tensors: Sequence[Tensor | None]) -> pa.Array:
    """Nulls for None, which all are or none is."""
    floats = [tensor.flatten().to(STORED).view(torch.int16) for tensor in tensors if tensor is not None]
    return _lists(floats) if floats else pa.nulls(len(tensors), _BF16)


def _lists(tensors: Sequence[Tensor]) -> pa.Array:
    offsets = np.cumsum([0, *(len(tensor) for tensor in tensors)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(torch.cat([*tensors]).numpy()))
