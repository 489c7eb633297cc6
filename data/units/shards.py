"""Units of shards, and what must be known of the encoders before."""

import base64
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from data.dataset_info import ShardInfo
from data.engine import Guard, Unit, unit_key
from data.output import OutputFolder
from data.probe import VideoError
from data.shards import StoredSample, shard_of
from data.stages.buckets import bucket_name
from data.stages.encoding import CLIPS_PER_BATCH, EncoderSource, encode_clips, load_encoders, prompt_alone, read_clips
from data.units.jobs import ClipJob, opened
from data.video import Window
from video_dit.config import Config, DataConfig
from video_dit.contracts import TextEncoder, TextSegment, truncated_by
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


def encoders_unit(source: EncoderSource) -> Unit:
    """What the encoders are; as loading them takes long and much memory, a worker does it."""
    return Unit("encoders", unit_key("encoders", source.identity()), partial(_describe_encoders, source))


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


def shard_unit(
    jobs: Sequence[ClipJob], grid: Grid, number: int, config: Config, encoders: EncoderSource, out: OutputFolder
) -> Unit:
    """Of clips of one bucket. The file's name names its content, so that one that is there is the right one."""
    settings = (grid, config.data.fps, config.data.decoder, config.data.limits, encoders.identity())
    key = unit_key("shard", *settings, *([*job.identity, job.captions] for job in jobs))
    file = f"shard-{bucket_name(grid)}-{number:05d}-{key[:8]}.arrow"
    work = partial(_write_shard, tuple(jobs), grid, config.data, encoders, out, file)
    return Unit("shard", key, work, len(jobs))


def read_shard(result: bytes) -> WrittenShard:
    values = json.loads(result)
    return WrittenShard(**{**values, "info": ShardInfo(**values["info"])})


def _write_shard(
    jobs: tuple[ClipJob, ...], grid: Grid, data: DataConfig, encoders: EncoderSource, out: OutputFolder, file: str,
    guard: Guard,
) -> bytes:  # fmt: skip
    autoencoder, text_encoder = load_encoders(encoders)
    samples: list[StoredSample] = []
    failed: dict[str, str] = {}
    waiting: list[tuple[ClipJob, Window]] = []

    def encode_waiting() -> None:
        ready, windows = zip(*waiting, strict=True)
        named = [(job.clip.id, job.captions) for job in ready]
        samples.extend(encode_clips(windows, named, data.fps, autoencoder, text_encoder))
        waiting.clear()

    for group in _of_one_video(jobs):
        found: dict[int, Window] = {}
        first = group[0]
        try:
            with opened(first.video, guard, first.info.duration or 0.0) as path:
                for index, window in read_clips(path, first.info, [job.clip.start for job in group], grid, data):
                    found[index] = window
        except VideoError as error:
            failed.update({job.clip.id: str(error) for index, job in enumerate(group) if index not in found})
        for index, window in sorted(found.items()):
            waiting.append((group[index], window))
            if len(waiting) == CLIPS_PER_BATCH:
                encode_waiting()
    if waiting:
        encode_waiting()
    content, info = shard_of(samples, bucket_name(grid))
    if samples:
        out.write(file, content)
    cut = {job.clip.id: segments for job in jobs if (segments := _cut(job, text_encoder))}
    values = WrittenShard(file if samples else None, info, failed, cut)._asdict()
    return json.dumps({**values, "info": info._asdict()}).encode()


def _cut(job: ClipJob, text_encoder: TextEncoder) -> list[tuple[str, int]]:
    """The text encoders that do not read the whole of a clip's captions."""
    cuts = (truncated_by(text_encoder, caption.text) for caption in job.captions)
    return sorted({(segment.name, segment.max_tokens) for found in cuts for segment, _ in found})


def _of_one_video(jobs: Sequence[ClipJob]) -> Iterator[list[ClipJob]]:
    """Neighbours that are of one video, no more than are held in memory at a time."""
    for _, same in groupby(jobs, key=lambda job: job.video.id):
        group = list(same)
        yield from (group[start : start + CLIPS_PER_BATCH] for start in range(0, len(group), CLIPS_PER_BATCH))
