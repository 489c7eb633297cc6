"""What each rule dropped."""

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

MAX_REASONS = 4
"""Of one rule that are told apart: damaged files can each have a reason of their own."""


class Drop(NamedTuple):
    """Inputs dropped as a whole and clips, by one rule for one reason.

    rule, threshold: as in the tables.
    reason: in words; where a rule has very many, "N other reasons".
    reasons: those that are counted here.
    videos, clips: how many were dropped.
    median: of their scores; None where the rule compares no numbers.
    example: the id that comes first in the alphabet.
    """

    rule: str
    reason: str
    reasons: frozenset[str]
    threshold: float | None
    videos: int
    clips: int
    median: float | None
    example: str

    def as_json(self) -> dict[str, Any]:
        """As dataset.json has it."""
        return {name: getattr(self, name) for name in ("rule", "reason", "threshold", "videos", "clips", "example")}


def find_drops(videos: pa.Table, clips: pa.Table) -> list[Drop]:
    """All that was dropped, each row counted once; the rule that took the most first, then its most frequent reason."""
    columns = ["id", "rule", "reason", "score", "threshold"]
    parts = []
    for table, is_video in ((videos, True), (clips, False)):
        dropped = table.select(columns).filter(table["rule"].is_valid())
        parts.append(dropped.append_column("is_video", pa.repeat(pa.scalar(is_video), len(dropped))))
    groups = (
        pa.concat_tables(parts)
        .group_by(["rule", "reason"], use_threads=False)
        .aggregate([("is_video", "sum"), ([], "count_all"), ("threshold", "min"), ("id", "min"), ("score", "list")])
        .sort_by([("rule", "ascending"), ("count_all", "descending"), ("reason", "ascending")])
        .to_pylist()
    )
    drops = []
    for _, same_rule in groupby(groups, key=lambda group: group["rule"]):
        of_rule = list(same_rule)
        alone = len(of_rule) if len(of_rule) <= MAX_REASONS else MAX_REASONS - 1
        drops.append([_merged([group]) for group in of_rule[:alone]])
        if of_rule[alone:]:
            drops[-1].append(_merged(of_rule[alone:]))
    drops.sort(key=lambda of_rule: (-sum(drop.videos + drop.clips for drop in of_rule), of_rule[0].rule))
    return [drop for of_rule in drops for drop in of_rule]


def _merged(groups: list[dict[str, Any]]) -> Drop:
    scores = [score for group in groups for score in group["score_list"] if score is not None]
    num_videos = sum(group["is_video_sum"] for group in groups)
    return Drop(
        rule=groups[0]["rule"],
        reason=groups[0]["reason"] if len(groups) == 1 else f"{len(groups):,} other reasons",
        reasons=frozenset(group["reason"] for group in groups),
        threshold=groups[0]["threshold_min"],
        videos=num_videos,
        clips=sum(group["count_all"] for group in groups) - num_videos,
        median=float(np.median(scores)) if scores else None,
        example=min(group["id_min"] for group in groups),
    )
