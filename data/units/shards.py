"""Units of shards, and what must be known of the encoders before."""

import base64
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from data.engine import Guard, Unit, unit_key
from data.output import OutputFolder
from data.probe import VideoError
from data.stages.encoding import CLIPS_PER_BATCH, EncoderSource, encode_clips, load_encoders, read_clips
from data.units.jobs import ClipJob, opened
from data.video import Window
from video_dit.config import Config, DataConfig
from video_dit.contracts import TextSegment, truncated_by
from video_dit.shapes import Grid


class EncoderInfo(NamedTuple):
    """What must be known of the encoders to plan with them, and what they make of the empty prompt, as a shard."""

    stride: tuple[int, int, int]
    causal: bool
    frame_step: int
    channels: int
    max_length: int
    width: int
    pooled_width: int
    segments: tuple[TextSegment, ...]
    empty_prompt: bytes


def encoders_unit(source: EncoderSource) -> Unit:
    """What the encoders are; loading them takes long, so it is a worker's task too."""
    return Unit("encoders", unit_key("encoders", *source.identity), partial(_describe_encoders, source))


def read_encoders(result: bytes) -> EncoderInfo:
    values = json.loads(result)
    segments = tuple(TextSegment.from_json(segment) for segment in values["segments"])
    stride, empty_prompt = tuple(values["stride"]), base64.b64decode(values["empty_prompt"])
    return EncoderInfo(**{**values, "stride": stride, "segments": segments, "empty_prompt": empty_prompt})


def _describe_encoders(source: EncoderSource, guard: Guard) -> bytes:  # noqa: ARG001
    autoencoder, text_encoder = load_encoders(source)
    values = {name: getattr(autoencoder, name) for name in ("stride", "causal", "frame_step", "channels")}
    values |= {name: getattr(text_encoder, name) for name in ("max_length", "width", "pooled_width")}
    empty = base64.b64encode(shard_bytes([empty_sample(text_encoder)])).decode()
    segments = [segment._asdict() for segment in text_encoder.segments]
    return json.dumps({**values, "segments": segments, "empty_prompt": empty}).encode()


class WrittenShard(NamedTuple):
    """A shard, and what became of the clips that it was to hold.

    file: its name; None where no clip was left.
    clips: how many it holds.
    checksum: of the file.
    failed: reasons, by the ids of the clips that could not be decoded.
    cut: by the ids of the clips, the text encoders that cut a caption, each with how many tokens it reads.
    """

    file: str | None
    clips: int
    checksum: str
    failed: dict[str, str]
    cut: dict[str, list[tuple[str, int]]]


def shard_unit(
    jobs: Sequence[ClipJob], grid: Grid, number: int, config: Config, encoders: EncoderSource, out: OutputFolder
) -> Unit:
    """Of clips of one bucket. The file's name names its content, so that one that is there is the right one."""
    settings = (grid, config.data.fps, config.data.decoder, config.data.limits, *encoders.identity)
    key = unit_key("shard", *settings, *([*job.identity, job.captions] for job in jobs))
    file = f"shard-{bucket_name(grid)}-{number:05d}-{key[:8]}.arrow"
    work = partial(_write_shard, tuple(jobs), grid, config.data, encoders, out, file)
    return Unit("shard", key, work, len(jobs))


def read_shard(result: bytes) -> WrittenShard:
    return WrittenShard(**json.loads(result))


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
        ids, captions = [job.clip.id for job in ready], [job.captions for job in ready]
        samples.extend(encode_clips(windows, ids, captions, data.fps, autoencoder, text_encoder))
        waiting.clear()

    for group in _of_one_video(jobs):
        found: dict[int, Window] = {}
        try:
            with opened(group[0].video, guard, group[0].info.duration or 0.0) as path:
                found.update(read_clips(path, group[0].info, [job.clip.start for job in group], grid, data))
        except VideoError as error:
            failed.update({job.clip.id: str(error) for index, job in enumerate(group) if index not in found})
        for index, window in sorted(found.items()):
            waiting.append((group[index], window))
            if len(waiting) == CLIPS_PER_BATCH:
                encode_waiting()
    if waiting:
        encode_waiting()
    content = shard_bytes(samples)
    if samples:
        out.write(file, content)
    cut = {
        job.clip.id: sorted({(s.name, s.max_tokens) for text, _ in job.captions for s, _ in truncated_by(text_encoder, text)})
        for job in jobs
    }
    written = WrittenShard(
        file if samples else None, len(samples), checksum(content), failed, {k: v for k, v in cut.items() if v}
    )
    return json.dumps(written._asdict()).encode()


def _of_one_video(jobs: Sequence[ClipJob]) -> Iterator[list[ClipJob]]:
    """Neighbours that are of one video, no more than are held in memory at a time."""
    for _, same in groupby(jobs, key=lambda job: job.video.id):
        group = list(same)
        yield from (group[start : start + CLIPS_PER_BATCH] for start in range(0, len(group), CLIPS_PER_BATCH))
