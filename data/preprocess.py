"""From videos to shards."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.dataset_info import Bucket, DatasetInfo
from data.latents import encode
from data.probe import VideoError, probe
from data.shards import ShardWriter, StoredSample, write_shard
from data.sources.captions import Caption
from data.sources.discovery import Dropped, Video, discover
from data.storage import as_file
from data.video import Window, read_windows
from video_dit.config import Config
from video_dit.contracts import Autoencoder, ClipInfo, EncodedShape, TextCondition, TextEncoder, truncated_by
from video_dit.errors import UserError
from video_dit.files import write_atomically

NUM_EXAMPLE_PROMPTS = 8


@dataclass
class Report:
    """What became of each input."""

    num_inputs: int = 0
    num_clips: int = 0
    num_videos: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        return {"videos": self.num_inputs, "videos_with_clips": self.num_videos, "clips": self.num_clips}

    def dropped_by_reason(self) -> list[dict[str, Any]]:
        """As `DatasetInfo.dropped`."""
        examples = {dropped.reason: dropped.id for dropped in reversed(self.dropped)}
        rows = Counter(dropped.reason for dropped in self.dropped).most_common()
        nothing = {"rule": "unusable", "threshold": None, "clips": 0}
        return [{**nothing, "reason": reason, "videos": n, "example": examples[reason]} for reason, n in rows]

    def summary(self) -> str:
        """The counts, then each reason with how many inputs it took, the most frequent first."""
        lines = [
            f"videos: {self.num_inputs:,} in, {self.num_videos:,} with clips, {len(self.dropped):,} without; "
            f"clips: {self.num_clips:,} out"
        ]
        if self.dropped:
            lines.append("without clips:")
            examples = {dropped.reason: dropped.id for dropped in reversed(self.dropped)}
            for reason, count in Counter(dropped.reason for dropped in self.dropped).most_common():
                lines.append(f"  {count:>6,}  {reason}, such as {_shown(examples[reason])}")
        if self.notes:
            lines.append("of those with clips:")
            lines += [f"  {count:>6,}  {note}" for note, count in self.notes.most_common()]
        return "\n".join(lines)


def preprocess(
    source: str | Path,
    out: Path,
    config: Config,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    fingerprints: dict[str, str | None],
    overwrite: bool,
    progress: Callable[[Iterable[Video], int], Iterable[Video]],
) -> Report | None:
    """Decodes, encodes and writes; a file that cannot be read is reported and skipped.

    Args:
        source: a folder of videos, a manifest or a tar; a path, or a URL that fsspec reads.
        out: the folder for the shards.
        config: its tables `data`, `autoencoder` and `text_encoder` are read.
        autoencoder, text_encoder: as those tables say.
        fingerprints: theirs, by the names of those tables.
        overwrite: replace shards that were made from something else.
        progress: wraps the iteration over the videos (their count is given), to show it.

    Returns:
        what became of the inputs; None when `out` already holds just these shards.

    Raises:
        UserError: the source cannot be used, clips of this size do not fit the autoencoder, `out` holds other shards,
            or nothing came out.
    """
    encoded = EncodedShape.of(config.data.grid, autoencoder, text_encoder)
    videos, dropped = discover(source, config.data)
    tables = {name: getattr(config, name).model_dump(mode="json") for name in ("data", "autoencoder", "text_encoder")}
    inputs = _fingerprint(videos)
    if not overwrite and _are_made(out, tables, inputs, fingerprints):
        return None

    out.mkdir(parents=True, exist_ok=True)
    for stale in (out / "dataset.json", *out.glob("shard-*.arrow")):
        stale.unlink(missing_ok=True)
    report = Report(num_inputs=len(videos) + len(dropped), dropped=dropped)
    bucket = Bucket.of(config.data.grid, autoencoder)
    shards = ShardWriter(out, bucket.name, config.data.clips_per_shard)
    captions: dict[str, None] = {}
    with (out / "report.jsonl").open("w", encoding="utf-8") as lines:
        for entry in dropped:
            lines.write(_line(entry.id, 0, entry.reason))
        for video in progress(videos, len(videos)):
            samples, reason = encode_video(video, config, autoencoder, text_encoder)
            lines.write(_line(video.id, len(samples), reason, video.notes))
            _account(report, video, samples, reason, text_encoder)
            captions.update(dict.fromkeys(caption for sample in samples for caption in sample.captions))
            shards.add(samples)
    shards.close()
    if not shards.shards:
        raise UserError(f"no clip came out of {source}\n{report.summary()}")
    no_clip = ClipInfo(torch.zeros(()), torch.zeros(2), torch.zeros(2))
    nothing = StoredSample("", ("",), (1.0,), torch.zeros(0), None, _on_cpu(text_encoder.encode([""])), no_clip)
    write_shard(out / "empty_prompt.arrow", [nothing], "")
    examples = _spread(list(captions), NUM_EXAMPLE_PROMPTS)
    write_atomically(out / "example_prompts.txt", "".join(f"{caption}\n" for caption in examples))
    DatasetInfo(
        tables, inputs, fingerprints, encoded, {bucket.name: bucket}, shards.shards, report.counts(),
        report.dropped_by_reason(), "latents",
    ).write(out)  # fmt: skip
    return report


def _are_made(out: Path, tables: dict[str, dict[str, Any]], inputs: str, fingerprints: dict[str, str | None]) -> bool:
    """Whether the folder holds just these shards.

    Raises:
        UserError: it holds others.
    """
    if not (out / "dataset.json").exists():
        return False
    existing = DatasetInfo.read(out)
    if (existing.tables, existing.inputs, existing.fingerprints) != (tables, inputs, fingerprints):
        raise UserError(
            f"{out} holds shards that were made from other videos or settings: give --overwrite, or another --out"
        )
    return True


def encode_video(
    video: Video, config: Config, autoencoder: Autoencoder, text_encoder: TextEncoder
) -> tuple[list[StoredSample], str | None]:
    """The samples of one video, and what went wrong, if something did. Depends on nothing but its arguments."""
    if not video.captions and config.data.missing_caption == "drop":
        return [], "no caption"
    clip_seconds = config.data.num_frames / config.data.fps
    too_short = f"shorter than a clip ({config.data.num_frames} frames at {config.data.fps:g} fps)"
    windows: list[Window] = []
    problem = None
    try:
        with as_file(video.place) as path:
            info = probe(path, config.data.limits)
            if info.duration is not None and info.duration < clip_seconds - 0.5 / config.data.fps:
                return [], too_short
            windows.extend(read_windows(path, config.data, info))
    except VideoError as error:
        problem = str(error)
    if not windows:
        return [], problem or too_short

    captions, weights = zip(*(video.captions or (Caption("", 1.0),)), strict=True)
    text = _on_cpu(text_encoder.encode(list(captions)))
    samples = []
    for index, (frames, source_size, crop) in enumerate(windows):
        clip = ClipInfo(*(torch.tensor(value, dtype=torch.float32) for value in (config.data.fps, source_size, crop)))
        posterior = encode(torch.from_numpy(frames)[None], autoencoder)
        mean, std = (None if part is None else part[0].cpu() for part in posterior)
        samples.append(StoredSample(f"{video.id}#{index}", captions, weights, mean, std, text, clip))
    return samples, problem


def _account(
    report: Report, video: Video, samples: list[StoredSample], reason: str | None, text_encoder: TextEncoder
) -> None:
    if not samples:
        report.dropped.append(Dropped(video.id, reason or "no clip"))
        return
    report.num_videos += 1
    report.num_clips += len(samples)
    if reason:
        report.notes["damaged, and cut where the damage begins"] += 1
    if not video.captions:
        report.notes["without a caption, and given an empty one"] += 1
    report.notes.update(video.notes)
    cut = dict.fromkeys(segment for text, _ in video.captions for segment, _ in truncated_by(text_encoder, text))
    for segment in cut:
        report.notes[f"with a caption cut to {segment.max_tokens} tokens (text encoder: {segment.name})"] += 1


def _shown(name: str) -> str:
    """On one line of a terminal, whatever characters a file name has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _line(video_id: str, num_clips: int, reason: str | None, notes: tuple[str, ...] = ()) -> str:
    return json.dumps({"id": video_id, "clips": num_clips, "reason": reason, "notes": notes}) + "\n"


def _on_cpu(condition: TextCondition) -> TextCondition:
    return TextCondition(*(tensor.cpu() for tensor in condition))


def _spread(items: list[str], count: int) -> list[str]:
    """At most `count` of the items that say something, from all over the list."""
    items = [item for item in items if item]
    return [items[index * len(items) // count] for index in range(count)] if len(items) > count else items


def _fingerprint(videos: list[Video]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for video in videos:
        digest.update(json.dumps([video.id, video.captions, video.place.size]).encode())
    return digest.hexdigest()
