"""Units of videos: the probe and the scan."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from data.engine import Guard, Unit, unit_key
from data.probe import VideoError, VideoInfo, probe
from data.sources.discovery import Video
from data.stages.scan import Scan, scan
from data.units.jobs import identity, opened
from video_dit.config import Config, Limits

VIDEOS_PER_PROBE = 32


def probe_units(videos: Sequence[Video], limits: Limits) -> list[Unit]:
    """Of some videos each, as one takes a few milliseconds. Each gives a line for each video."""
    groups = [tuple(videos[start : start + VIDEOS_PER_PROBE]) for start in range(0, len(videos), VIDEOS_PER_PROBE)]
    return [
        Unit("probe", unit_key("probe", limits, *map(identity, group)), partial(_probe, group, limits), len(group))
        for group in groups
    ]


def read_probe(result: bytes) -> list[VideoInfo | str]:
    """For each video what it is, or why it cannot be read."""
    return [value if isinstance(value, str) else VideoInfo.from_json(value) for value in json.loads(result)]


def _probe(videos: tuple[Video, ...], limits: Limits, guard: Guard) -> bytes:
    found: list[Any] = []
    for video in videos:
        try:
            with opened(video, guard) as path:
                found.append(probe(path, limits).to_json())
        except VideoError as error:
            found.append(str(error))
    return json.dumps(found).encode()


def scan_unit(video: Video, info: VideoInfo, config: Config) -> Unit:
    detector = config.shots.model_dump(exclude={"stride", "min_seconds"})
    key = unit_key("scan", identity(video), info.to_json(), detector, config.data.limits)
    return Unit("scan", key, partial(_scan, video, info, config))


def _scan(video: Video, info: VideoInfo, config: Config, guard: Guard) -> bytes:
    try:
        with opened(video, guard, info.duration or 0.0) as path:
            return scan(path, info, config.shots, config.data.limits).to_bytes()
    except VideoError as error:
        return Scan.of_nothing(str(error)).to_bytes()
