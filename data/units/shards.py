"""Units of shards, and what must be known of the encoders before."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from data.dataset_info import VERSION, Holds, ShardInfo, bucket_name, checksum
from data.engine import Guard, Unit, unit_key
from data.output import OutputFolder
from data.probe import VideoError
from data.shards import Cut, StoredSample, shard_of
from data.stages.encoding import CLIPS_PER_BATCH, EncoderSource, encode_clips, keep_clips, load_encoders, prompt_alone
from data.units.jobs import ClipJob, opened
from data.video import Window, read_clips
from video_dit.config import DataConfig
from video_dit.contracts import Autoencoder, TextEncoder, TextSegment, truncated_by
from video_dit.shapes import Grid


class EncoderInfo(NamedTuple):
    """What must be known of the encoders to plan with them, and what they make of the empty prompt, as a shard.

    The first eight are as in the protocols `Autoencoder` and `TextEncoder`.
    """

    stride: tuple[int, int, int]
    causal: bool
    frame_step: int
    channels: int
    max_length: int
    width: int
    pooled_width: int
    segments: tuple[TextSegment, ...]
    fingerprints: dict[str, str | None]
    empty_prompt: bytes


def empty_prompt_file(content: bytes) -> str:
    """Its name."""
    return f"empty_prompt-{checksum([content])[:8]}.arrow"


def encoders_unit(source: EncoderSource) -> Unit:
    """What the encoders are; as loading them takes long and much memory, a worker does it."""
    return Unit("encoders", unit_key("encoders", VERSION, source.identity()), partial(_describe_encoders, source))


def read_encoders(result: bytes) -> EncoderInfo:
    values = json.loads(result)
    segments = tuple(TextSegment.from_json(segment) for segment in values["segments"])
    stride, empty_prompt = tuple(values["stride"]), base64.b64decode(values["empty_prompt"])
    return EncoderInfo(**{**values, "stride": stride, "segments": segments, "empty_prompt": empty_prompt})


def _describe_encoders(source: EncoderSource, guard: Guard) -> bytes:  # noqa: ARG001
    autoencoder, text_encoder = load_encoders(source)
    values = {name: getattr(autoencoder, name) for name in ("stride", "causal", "frame_step", "channels")}
    values |= {name: getattr(text_encoder, name) for name in ("max_length", "width", "pooled_width")}
    values["segments"] = [segment._asdict() for segment in text_encoder.segments]
    values["fingerprints"] = source.fingerprints()
    values["empty_prompt"] = base64.b64encode(shard_of([prompt_alone("", text_encoder)], "")[0]).decode()
    return json.dumps(values).encode()


OWN_FILES = re.compile(r"shard-\d+x\d+x\d+-\d{5,}-[0-9a-f]{8}\.arrow|empty_prompt(-[0-9a-f]{8})?\.arrow")
"""The names that name their content; other files that begin alike are not ours, such as shard-000000.tar."""


class WrittenShard(NamedTuple):
    """A shard, and what became of the clips that it was to hold.

    file: its name; None where no clip was left.
    info: what `dataset.json` says of it.
    failed: reasons, by the ids of the clips that could not be decoded.
    cut: by the ids of the clips, the text encoders that cut a caption, each with how many tokens it reads.
    """

    file: str | None
    info: ShardInfo
    failed: dict[str, str]
    cut: dict[str, list[tuple[str, int]]]


class ShardJob(NamedTuple):
    """What a worker has to know of a shard: clips of one bucket, and what to make of them.

    holds: as in `DatasetInfo`.
    """

    clips: tuple[ClipJob, ...]
    grid: Grid
    data: DataConfig
    encoders: EncoderSource
    holds: Holds


def shard_unit(job: ShardJob, identity: object, number: int, out: OutputFolder) -> Unit:
    """The file's name names its content, so that one that is there is the right one.

    Args:
        identity: of the encoders, which is read from their files: once for all shards.
        number: of the shard among those of its bucket.
        out: the folder that it is written to.
    """
    settings = (VERSION, number, job.grid, job.data.fps, job.data.decoder, job.data.limits, identity, job.holds)
    places = [clip.video.place for clip in job.clips if job.holds == "videos"]
    key = unit_key("shard", *settings, places, *([*clip.identity, clip.captions] for clip in job.clips))
    file = f"shard-{bucket_name(job.grid)}-{number:05d}-{key[:8]}.arrow"
    return Unit("shard", key, partial(_write_shard, job, out, file), len(job.clips), partial(_is_there, out))


def read_shard(result: bytes) -> WrittenShard:
    values = json.loads(result)
    return WrittenShard(**{**values, "info": ShardInfo(**values["info"])})


def _is_there(out: OutputFolder, result: bytes) -> bool:
    """A run with other settings removes the shards that it does not hold; a copy of a folder may have lost the end."""
    shard = read_shard(result)
    return shard.file is None or out.size(shard.file) == shard.info.bytes


def _write_shard(job: ShardJob, out: OutputFolder, file: str, guard: Guard) -> bytes:
    autoencoder, text_encoder = load_encoders(job.encoders)
    failed: dict[str, str] = {}
    if job.holds == "videos":
        samples = _kept(job, text_encoder)
    else:
        samples = _encoded(job, autoencoder, text_encoder, guard, failed)
    content, info = shard_of(samples, bucket_name(job.grid))
    if info.clips:
        out.write(file, content)
    cut = {clip.clip.id: segments for clip in job.clips if (segments := _cut(clip, text_encoder))}
    values = WrittenShard(file if info.clips else None, info, failed, cut)._asdict()
    return json.dumps({**values, "info": info._asdict()}).encode()


def _kept(job: ShardJob, text_encoder: TextEncoder) -> Iterator[StoredSample]:
    for start in range(0, len(job.clips), CLIPS_PER_BATCH):
        clips = job.clips[start : start + CLIPS_PER_BATCH]
        cuts = [Cut(clip.video.place, clip.clip.start) for clip in clips]
        named, sizes = [(clip.clip.id, clip.captions) for clip in clips], [clip.info.size for clip in clips]
        yield from keep_clips(cuts, named, sizes, job.grid, job.data.fps, text_encoder)


def _encoded(
    job: ShardJob, autoencoder: Autoencoder, text_encoder: TextEncoder, guard: Guard, failed: dict[str, str]
) -> Iterator[StoredSample]:
    """What cannot be decoded goes to `failed`."""
    for clips, windows in _decoded(job, guard, failed):
        named = [(clip.clip.id, clip.captions) for clip in clips]
        yield from encode_clips(windows, named, job.data.fps, autoencoder, text_encoder)


def _decoded(
    job: ShardJob, guard: Guard, failed: dict[str, str]
) -> Iterator[tuple[tuple[ClipJob, ...], tuple[Window, ...]]]:
    """Batches of clips with their frames; what cannot be decoded goes to `failed`, with its reason."""
    waiting: list[tuple[ClipJob, Window]] = []
    for group in _of_one_video(job.clips):
        found: dict[int, Window] = {}
        video, info = group[0].video, group[0].info
        try:
            with opened(video, guard, info.duration or 0.0) as path:
                for index, window in read_clips(path, info, [clip.clip.start for clip in group], job.grid, job.data):
                    found[index] = window
        except VideoError as error:
            failed.update({clip.clip.id: str(error) for index, clip in enumerate(group) if index not in found})
        waiting += [(group[index], window) for index, window in sorted(found.items())]
        while len(waiting) >= CLIPS_PER_BATCH:
            yield tuple(zip(*waiting[:CLIPS_PER_BATCH], strict=True))
            waiting = waiting[CLIPS_PER_BATCH:]
    if waiting:
        yield tuple(zip(*waiting, strict=True))


def _cut(clip: ClipJob, text_encoder: TextEncoder) -> list[tuple[str, int]]:
    """The text encoders that do not read the whole of a clip's captions."""
    cuts = (truncated_by(text_encoder, caption.text) for caption in clip.captions)
    return sorted({(segment.name, segment.max_tokens) for found in cuts for segment, _ in found})


def _of_one_video(clips: Sequence[ClipJob]) -> Iterator[list[ClipJob]]:
    """Neighbours that are of one video, no more than are held in memory at a time."""
    for _, same in groupby(clips, key=lambda clip: clip.video.id):
        group = list(same)
        yield from (group[start : start + CLIPS_PER_BATCH] for start in range(0, len(group), CLIPS_PER_BATCH))
