"""From videos to shards: what is done with each video, stage by stage, and what is known of it afterwards."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.dataset_info import Holds
from data.engine import Engine, Unit
from data.output import OutputFolder
from data.probe import VideoInfo
from data.sources.captions import Caption
from data.sources.discovery import Dropped, Video
from data.stages.buckets import choose_bucket, make_buckets
from data.stages.clips import Clip, Lengths, cut, whole
from data.stages.duplicates import find_duplicates
from data.stages.encoding import EncoderSource
from data.stages.failure import ClipError
from data.stages.filters import Drop, clip_limits, drop_captions, drop_clip, drop_video
from data.stages.scan import Scan
from data.units.jobs import ClipJob
from data.units.looks import Look, caption_units, picture_units, read_descriptions, read_pictures, scorer_units
from data.units.shards import EncoderInfo, ShardJob, WrittenShard, encoders_unit, read_encoders, read_shard, shard_unit
from data.units.videos import probe_units, read_probe, scan_unit
from video_dit.config import Config
from video_dit.errors import UserError
from video_dit.shapes import Grid

UNREADABLE, NOT_TAKEN, NO_SHOT = "unreadable", "not taken", "no shot"
"""Rules that are no key of the config."""

NO_LONG_SHOT = "no shot is as long as a clip, or as shots.min_seconds"


class Progress(Protocol):
    """Shows how far a stage is."""

    def update(self, count: int) -> object: ...

    def set_postfix_str(self, s: str, refresh: bool) -> object: ...


ShowProgress = Callable[[str, str, int], AbstractContextManager[Progress]]
"""What is done, what is counted, and how many of it there are."""


T = TypeVar("T")


@dataclass
class Input:
    """One input, and what is known of it so far.

    drop: why it gives no clip.
    notes: what was noticed of it.
    """

    id: str
    video: Video | None = None
    info: VideoInfo | None = None
    drop: Drop | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Candidate:
    """A clip that was cut, and what is known of it so far."""

    source: Input
    clip: Clip
    captions: tuple[Caption, ...]
    scores: dict[str, float]
    drop: Drop | None = None
    duplicate_of: str | None = None
    grid: Grid | None = None
    shard: str | None = None

    @property
    def job(self) -> ClipJob:
        assert self.source.video is not None
        assert self.source.info is not None
        return ClipJob(self.source.video, self.source.info, self.clip, self.captions)


class Preprocessing:
    """The stages in their order. What an earlier one has dropped, a later one does not look at.

    Args:
        videos, dropped: what `discover` found.
        config: its tables from `data` to `text_encoder`, and `model.patch_size` for the budget of tokens.
        encoders: how a worker comes by its encoders.
        engine: who works.
        results: where the results of units are kept.
        show_progress: shows each stage.

    Attributes:
        inputs: all of them, the dropped ones too.
        candidates: all clips that were cut.
        shards: those that were written.
    """

    def __init__(
        self, videos: list[Video], dropped: list[Dropped], config: Config, encoders: EncoderSource, engine: Engine,
        results: OutputFolder, show_progress: ShowProgress,
    ) -> None:  # fmt: skip
        self.config = config
        self._encoders, self._engine, self._results, self._show_progress = encoders, engine, results, show_progress
        self.inputs = [Input(video.id, video, notes=list(video.notes)) for video in videos]
        self.inputs += [Input(entry.id, drop=Drop(NOT_TAKEN, entry.reason)) for entry in dropped]
        self.candidates: list[Candidate] = []
        self.shards: list[WrittenShard] = []
        self._dropped_now: Counter[str] = Counter()

    @cached_property
    def encoder_info(self) -> EncoderInfo:
        """Of the encoders that the workers load."""
        units = [encoders_unit(self._encoders)]
        ((_, result),) = self._stage("looking at the encoders", "task", units)
        return read_encoders(result)

    @cached_property
    def _lengths(self) -> Lengths:
        counts = [grid.frames for grid in self.grids]
        return Lengths(self.config.data.fps, max(counts), min(counts))

    @cached_property
    def grids(self) -> list[Grid]:
        """Of the clips, in pixels."""
        return make_buckets(self.config, self.encoder_info)

    def probe(self) -> None:
        """What the headers say; what they and the captions rule out."""
        entries = [entry for entry in self.inputs if entry.video is not None]
        grids = self.grids
        units = probe_units([entry.video for entry in entries if entry.video is not None], self.config.data.limits)
        for of_unit, result in self._shared_out("probing", "video", units, entries):
            for entry, found in zip(of_unit, read_probe(result), strict=True):
                if isinstance(found, VideoInfo):
                    entry.info = found
                    self._drop(entry, self._ruled_out(entry, found, grids))
                else:
                    self._drop(entry, Drop(UNREADABLE, found))

    def _ruled_out(self, entry: Input, info: VideoInfo, grids: list[Grid]) -> Drop | None:
        """By its header and its captions."""
        config = self.config
        assert entry.video is not None
        if config.captioner.name == "none":
            texts = [caption.text for caption in entry.video.captions]
            if not texts and config.data.missing_caption == "drop":
                return Drop("data.missing_caption", "no caption")
            if dropped := drop_captions(texts, config.filters):
                return dropped
        if dropped := drop_video(info, config.filters):
            return dropped
        if not info.knows_length:
            return None
        clips = whole(entry.id, info, config.shots, self._lengths)
        found = choose_bucket(grids, info.size, clips[0].seconds if clips else info.duration or 0.0, config)
        return found if isinstance(found, Drop) else None

    def plan(self) -> None:
        """In place of `cut`: as if each video were one shot, without a look at its frames."""
        for entry in self._remaining():
            self._add_whole(entry)

    def cut(self) -> None:
        """The clips of each shot, with their scores; of whole videos, where nothing needs a look at their frames."""
        config = self.config
        looks = config.shots.detector != "none" or clip_limits(config.filters) or config.filters.min_difference
        entries = []
        for entry in self._remaining():
            assert entry.info is not None
            if looks or not entry.info.knows_length:
                entries.append(entry)
            else:
                self._add_whole(entry)
        units = [scan_unit(entry.video, entry.info, config) for entry in entries if entry.video and entry.info]
        for index, result in self._stage("looking for shots", "video", units):
            self._add_cut(entries[index], Scan.from_bytes(result))
        order = {entry.id: index for index, entry in enumerate(self.inputs) if entry.video is not None}
        self.candidates.sort(key=lambda candidate: (order[candidate.source.id], candidate.clip.start))

    def _add_whole(self, entry: Input) -> None:
        assert entry.info is not None
        clips = whole(entry.id, entry.info, self.config.shots, self._lengths)
        if clips:
            self._add_clips(entry, clips)
        else:
            reason = NO_LONG_SHOT if entry.info.knows_length else "its header does not say how long it is"
            self._drop(entry, Drop(NO_SHOT, reason))

    def _add_cut(self, entry: Input, scan: Scan) -> None:
        assert entry.info is not None
        clips = cut(entry.id, scan, entry.info, self.config.shots, self._lengths)
        if scan.problem is not None:
            entry.notes.append(f"damaged: {scan.problem}")
        if clips:
            self._add_clips(entry, clips)
        elif scan.problem is not None:
            self._drop(entry, Drop(UNREADABLE, scan.problem))
        else:
            self._drop(entry, Drop(NO_SHOT, NO_LONG_SHOT))

    def filter(self) -> None:
        """By what was measured, and by likeness to an earlier clip."""
        for candidate in self._kept():
            candidate.drop = drop_clip(candidate.scores, self.config.filters)
        least = self.config.filters.min_difference
        if least is None:
            return
        kept = self._kept()
        for candidate, nearest in zip(kept, find_duplicates([c.clip.hashes for c in kept], least), strict=True):
            if nearest is not None:
                candidate.scores["difference"] = nearest.difference
                candidate.duplicate_of = kept[nearest.index].clip.id
                reason = "nearly the same as an earlier clip"
                candidate.drop = Drop("filters.min_difference", reason, nearest.difference, least)

    def describe(self) -> None:
        """Scores and captions by models that look at the clips."""
        config = self.config
        if config.filters.scorers:
            units = scorer_units([c.job for c in self._kept()], config.filters, config.data)
            for candidate, scores in self._described("scoring", units):
                if isinstance(scores, ClipError):
                    candidate.drop = Drop("filters.scorers", str(scores))
                else:
                    candidate.scores.update(scores)
                    candidate.drop = drop_clip(candidate.scores, config.filters)
        if config.captioner.name != "none":
            fingerprint = self._encoders.fingerprint(config.captioner)
            units = caption_units([c.job for c in self._kept()], config.captioner, fingerprint, config.data)
            for candidate, caption in self._described("captioning", units):
                if not isinstance(caption, ClipError):
                    candidate.captions += (Caption(caption, config.captioner.weight),)
                elif not candidate.captions and config.data.missing_caption == "drop":
                    candidate.drop = Drop("data.missing_caption", f"no caption: {caption}")
            for candidate in self._kept():
                candidate.drop = drop_captions([caption.text for caption in candidate.captions], config.filters)

    def _described(self, label: str, units: list[Unit]) -> Iterator[tuple[Candidate, object]]:
        for candidates, result in self._shared_out(label, "clip", units, self._kept()):
            yield from zip(candidates, read_descriptions(result), strict=True)

    def assign_buckets(self) -> None:
        for candidate in self._kept():
            assert candidate.source.info is not None
            found = choose_bucket(self.grids, candidate.source.info.size, candidate.clip.seconds, self.config)
            if isinstance(found, Drop):
                candidate.drop = found
            else:
                candidate.grid = found

    def write_shards(self, out: OutputFolder, holds: Holds) -> None:
        """Of the clips of one bucket each, in their order."""
        size = self.config.data.clips_per_shard
        groups: list[tuple[Grid, int, list[Candidate]]] = []
        for grid in self.grids:
            of_bucket = [candidate for candidate in self._kept() if candidate.grid == grid]
            groups += [(grid, n, of_bucket[n * size : (n + 1) * size]) for n in range(-(-len(of_bucket) // size))]
        units, identity = [], self._encoders.identity()
        for grid, number, group in groups:
            clips = tuple(candidate.job for candidate in group)
            job = ShardJob(clips, grid, self.config.data, self._encoders, holds)
            units.append(shard_unit(job, identity, number, out))
        written: dict[int, WrittenShard] = {}
        for index, result in self._stage("encoding", "clip", units):
            written[index] = read_shard(result)
            self._account(written[index], groups[index][2])
        self.shards = [written[index] for index in sorted(written) if written[index].file is not None]

    def _account(self, shard: WrittenShard, candidates: list[Candidate]) -> None:
        for candidate in candidates:
            reason = shard.failed.get(candidate.clip.id)
            if reason is None:
                candidate.shard = shard.file
            else:
                candidate.drop = Drop(UNREADABLE, reason)
                candidate.source.notes.append(f"damaged: {reason}")
                self._dropped_now[UNREADABLE] += 1
            if not candidate.captions:
                candidate.source.notes.append("without a caption, and given an empty one")
            for name, max_tokens in shard.cut.get(candidate.clip.id, ()):
                candidate.source.notes.append(f"with a caption cut to {max_tokens} tokens (text encoder: {name})")

    def take_pictures(self, looks: Sequence[Look]) -> dict[str, list[NDArray[np.uint8]]]:
        """For the report, by the names of the looks."""
        units = picture_units(looks, self.config.data)
        results = self._stage("taking pictures for the report", "picture", units)
        return {looks[index].id: read_pictures(result) for index, result in results}

    def refuse_nothing(self) -> None:
        """
        Raises:
            UserError: nothing is left; it names the rule that took the most, and what would let some pass.
        """
        if self._kept() or (not self.candidates and any(self._remaining())):
            return
        drops = [entry.drop for entry in self.inputs if entry.drop] + [c.drop for c in self.candidates if c.drop]
        raise UserError("no clip is left: " + what_would_help(drops))

    def _remaining(self) -> Iterator[Input]:
        return (entry for entry in self.inputs if entry.drop is None)

    def _kept(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.drop is None]

    def _add_clips(self, entry: Input, clips: Sequence[Clip]) -> None:
        assert entry.video is not None
        self.candidates += [Candidate(entry, clip, entry.video.captions, dict(clip.scores)) for clip in clips]

    def _drop(self, entry: Input, drop: Drop | None) -> None:
        entry.drop = drop
        if drop is not None:
            self._dropped_now[drop.rule] += 1

    def _shared_out(
        self, label: str, counted: str, units: Sequence[Unit], items: Sequence[T]
    ) -> Iterator[tuple[Sequence[T], bytes]]:
        """With each result those of the items, which the units share in their order, that it is about."""
        starts = list(accumulate((unit.count for unit in units), initial=0))
        for index, result in self._stage(label, counted, units):
            yield items[starts[index] : starts[index + 1]], result

    def _stage(self, label: str, counted: str, units: Sequence[Unit]) -> Iterator[tuple[int, bytes]]:
        """The results as they come, while progress is shown, with what has been dropped meanwhile."""
        if not units:
            return
        self._dropped_now.clear()
        with self._show_progress(label, counted, sum(unit.count for unit in units)) as progress:
            for index, result in self._engine.run(units, self._results):
                yield index, result
                if self._dropped_now:
                    dropped = ", ".join(f"{rule} {count:,}" for rule, count in self._dropped_now.most_common(3))
                    progress.set_postfix_str(f"dropped: {dropped}", refresh=False)
                progress.update(units[index].count)


def what_would_help(drops: Sequence[Drop]) -> str:
    """In words: the rule that took the most, and what of it the best of those would pass.

    A rule of the config comes before those that cannot be changed there.
    """
    counts = Counter(drop.rule for drop in drops)
    rule, count = max(counts.items(), key=lambda item: ("." in item[0], item[1]))
    of_rule = [drop for drop in drops if drop.rule == rule]
    reason = Counter(drop.reason for drop in of_rule).most_common(1)[0][0]
    took = f"{rule} dropped {count:,} of {len(drops):,} ({reason})"
    scores = [drop.score for drop in of_rule if drop.score is not None]
    threshold = of_rule[0].threshold
    if scores and threshold is not None:
        best = max(scores) if max(scores) < threshold else min(scores)
        return f"{took}: its limit is {threshold:g}, and the best has {best:.4g}; change {rule} so that this passes"
    if rule == "data.missing_caption":
        return f"{took}: add captions, or set data.missing_caption=empty, or a [captioner]"
    return took


def fingerprint_of(videos: Sequence[Video]) -> str:
    """Names the inputs: their ids, captions and sizes. A run goes on with them wherever they are."""
    return _fingerprint([video.id, video.captions, video.place.size] for video in videos)


def fingerprint_of_files(videos: Sequence[Video], holds: Holds) -> str:
    """Names the versions of the inputs' files, and where they are, if shards say that."""
    return _fingerprint(video.place if holds == "videos" else video.place.version for video in videos)


def _fingerprint(parts: Iterable[object]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()
