"""Which videos and clips are dropped, by which rule, and how far they were from passing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from data.probe import VideoInfo
from video_dit.config import FiltersConfig

HDR = "HDR"
"""A rule that is no key of the config: code values of HDR would pass for those of SDR."""


class Drop(NamedTuple):
    """Why something was left out.

    rule: a key of the config, or a word where nothing of the config decides.
    reason: in words, the same for all videos and clips that fail alike.
    score, threshold: what was measured and what it had to pass; None where nothing is measured.
    """

    rule: str
    reason: str
    score: float | None = None
    threshold: float | None = None


class Limit(NamedTuple):
    """A rule: the least or the most that a score may be; `words` say in a reason which one it is."""

    rule: str
    score: str
    words: str
    threshold: float
    is_least: bool

    def check(self, score: float) -> Drop | None:
        if score >= self.threshold if self.is_least else score <= self.threshold:
            return None
        return Drop(self.rule, f"{self.words} {'below' if self.is_least else 'above'} the limit", score, self.threshold)


_OF_VIDEOS = {"seconds": "seconds", "side": "shorter side", "aspect": "width / height"}
_OF_CLIPS = {
    "brightness": "brightness", "change": "change from frame to frame", "bars": "share of bars at the edges",
    "motion": "motion", "sharpness": "sharpness",
}  # fmt: skip


def video_limits(config: FiltersConfig) -> list[Limit]:
    """Those that the header of a file decides."""
    return list(_limits(config, _OF_VIDEOS))


def clip_limits(config: FiltersConfig) -> list[Limit]:
    """Those that need a look at the frames, and are measured by `data.stages.scan`."""
    return list(_limits(config, _OF_CLIPS))


def scorer_limits(config: FiltersConfig) -> list[Limit]:
    """Those of the user's own scorers."""
    tables = (("min_scores", config.min_scores, True), ("max_scores", config.max_scores, False))
    return [
        Limit(f"filters.{table}.{name}", name, name, threshold, is_least)
        for table, thresholds, is_least in tables
        for name, threshold in thresholds.items()
    ]


def _limits(config: FiltersConfig, measured: Mapping[str, str]) -> Iterator[Limit]:
    for name, words in measured.items():
        for prefix, is_least in (("min", True), ("max", False)):
            threshold = getattr(config, f"{prefix}_{name}", None)
            if threshold is not None:
                yield Limit(f"filters.{prefix}_{name}", name, words, threshold, is_least)


def first_drop(limits: Iterable[Limit], scores: Mapping[str, float]) -> Drop | None:
    """By the first limit, in their order, that a score does not keep; what has no score passes."""
    drops = (limit.check(scores[limit.score]) for limit in limits if limit.score in scores)
    return next((drop for drop in drops if drop), None)


def drop_video(info: VideoInfo, config: FiltersConfig) -> Drop | None:
    if info.hdr is not None:
        return Drop(HDR, f"is HDR ({info.hdr}), which is not converted here: convert it to SDR")
    height, width = info.size
    scores = {"side": float(min(height, width)), "aspect": width / height}
    if info.duration is not None:
        scores["seconds"] = info.duration
    return first_drop(video_limits(config), scores)


def drop_clip(scores: Mapping[str, float], config: FiltersConfig) -> Drop | None:
    return first_drop([*clip_limits(config), *scorer_limits(config)], scores)


def drop_captions(captions: Iterable[str], config: FiltersConfig) -> Drop | None:
    """Where the longest is too short."""
    if config.min_caption_length is None:
        return None
    length = max((len(caption) for caption in captions), default=0)
    words = "length of the longest caption"
    return Limit("filters.min_caption_length", "caption_length", words, config.min_caption_length, True).check(length)
