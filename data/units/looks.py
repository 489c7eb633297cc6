"""Units of clips that are looked at: by scorers, by captioners, and for the report."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from importlib.machinery import PathFinder
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.dataset_info import checksum
from data.engine import Guard, Unit, unit_key
from data.probe import VideoError, VideoInfo
from data.sources.discovery import Video
from data.stages.captioners import Captioner, build_captioner
from data.stages.failure import ClipError
from data.stages.frames import ClipFrames, frames_of
from data.stages.scorers import Scorer, load_scorers
from data.units.jobs import ClipJob, identity, opened
from video_dit.config import CaptionerConfig, DataConfig, FiltersConfig, Limits
from video_dit.errors import UserError

CLIPS_PER_SCORING = 32
NUM_PICTURES, PICTURE_HEIGHT = 4, 160
"""Of a clip in the report."""


def scorer_units(jobs: Sequence[ClipJob], filters: FiltersConfig, data: DataConfig) -> list[Unit]:
    """The user's own scorers."""
    look = _Look(data.fps, filters.scorer_frames, filters.scorer_height, data.limits)
    code = scorer_code(filters.scorers)
    work = partial(_score, tuple(filters.scorers.items()), code)
    return _look_units("score", jobs, CLIPS_PER_SCORING, look, [filters.scorers, code], work)


def scorer_code(scorers: Mapping[str, str]) -> dict[str, str | None]:
    """What names the source of each scorer's module, without what that imports; None where this machine has no file."""
    return {name: _code(_module(path)) for name, path in scorers.items()}


def _module(path: str) -> str:
    return path.partition(":")[0]


def _code(module: str) -> str | None:
    """Found without importing anything: the packages that it is in may want what workers alone have."""
    origin, folders = None, None
    for name in accumulate(module.split("."), "{}.{}".format):
        spec = PathFinder.find_spec(name, folders)
        if spec is None:  # who loads it will say so
            return None
        origin, folders = spec.origin, spec.submodule_search_locations or []
    return checksum([Path(origin).read_bytes()]) if origin and Path(origin).is_file() else None


def caption_units(
    jobs: Sequence[ClipJob], captioner: CaptionerConfig, fingerprint: str | None, data: DataConfig
) -> list[Unit]:
    """
    Args:
        fingerprint: of the captioner, where its files are here.
    """
    look = _Look(data.fps, captioner.num_frames, captioner.height, data.limits)
    settings = captioner.model_dump(exclude={"weight", "batch_size"}) | ({"files": fingerprint} if fingerprint else {})
    return _look_units("caption", jobs, captioner.batch_size, look, settings, partial(_caption, captioner, fingerprint))


def read_descriptions(result: bytes) -> list[Any]:
    """For each clip its caption or its scores by name, or a ClipError."""
    return [ClipError(said["error"]) if "error" in said else said["found"] for said in json.loads(result)]


class _Look(NamedTuple):
    """What is shown of a clip."""

    fps: float
    num_frames: int
    height: int
    limits: Limits

    def frames(self, path: Path, job: ClipJob) -> ClipFrames:
        return frames_of(path, job.info, job.clip.start, job.clip.seconds, *self)


Work = Callable[[tuple[ClipJob, ...], _Look, Guard], bytes]
"""Says something of each of some clips, as `read_descriptions` reads it."""


def _look_units(
    stage: str, jobs: Sequence[ClipJob], size: int, look: _Look, settings: object, work: Work
) -> list[Unit]:
    groups = [tuple(jobs[start : start + size]) for start in range(0, len(jobs), size)]
    return [
        Unit(
            stage, unit_key(stage, look, settings, *(job.identity for job in group)),
            partial(work, group, look), len(group),
        )
        for group in groups
    ]  # fmt: skip


Paths = tuple[tuple[str, str], ...]
"""The items of `filters.scorers`."""


def _score(scorers: Paths, code: dict[str, str | None], jobs: tuple[ClipJob, ...], look: _Look, guard: Guard) -> bytes:
    """The guard watches the scorers too: one that hangs costs the clip that it hangs at.

    Raises:
        UserError: this process has loaded a scorer's module of other code.
    """
    functions, loaded = _scorers(scorers)
    for name, path in scorers:
        if code[name] not in (None, loaded[name]):
            raise UserError(
                f"filters.scorers.{name} names {path!r}, whose module is another in a worker than where the command "
                "was given: copy it to all machines, and start workers again that had loaded it before it was changed"
            )
    outcomes: list[Any] = []
    for job in jobs:
        try:
            with opened(job.video, guard, clip=job.clip.id) as path:
                pixels = look.frames(path, job).pixels
                outcomes.append({name: function(pixels) for name, function in functions.items()})
        except (ClipError, VideoError) as error:
            outcomes.append(error)
    return _written(outcomes)


def _caption(
    config: CaptionerConfig, fingerprint: str | None, jobs: tuple[ClipJob, ...], look: _Look, guard: Guard
) -> bytes:
    seen: list[ClipFrames | VideoError] = []
    for job in jobs:
        try:
            with opened(job.video, guard, clip=job.clip.id) as path:
                seen.append(look.frames(path, job))
        except VideoError as error:
            seen.append(error)
    clips = [frames for frames in seen if isinstance(frames, ClipFrames)]
    captions = iter(_captioner(config, fingerprint).caption(clips) if clips else ())
    return _written([next(captions) if isinstance(frames, ClipFrames) else frames for frames in seen])


def _written(outcomes: Sequence[Any]) -> bytes:
    return json.dumps([{"error": str(o)} if isinstance(o, UserError) else {"found": o} for o in outcomes]).encode()


@cache
def _scorers(scorers: Paths) -> tuple[dict[str, Scorer], dict[str, str | None]]:
    """And their code as it was loaded."""
    return load_scorers(dict(scorers)), {name: _loaded_code(_module(path)) for name, path in scorers}


@cache
def _loaded_code(module: str) -> str | None:
    """A process loads a module once, whatever becomes of its file."""
    return _code(module)


@lru_cache(maxsize=1)
def _captioner(config: CaptionerConfig, fingerprint: str | None) -> Captioner:  # noqa: ARG001
    """Once in a process, and again where its files have become others."""
    return build_captioner(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


class Look(NamedTuple):
    """A stretch of a video that the report shows; `id` names its pictures."""

    id: str
    video: Video
    info: VideoInfo
    start: float
    seconds: float


def picture_units(looks: Sequence[Look], data: DataConfig) -> list[Unit]:
    shown = _Look(data.fps, NUM_PICTURES, PICTURE_HEIGHT, data.limits)
    keys = [unit_key("picture", identity(look.video), look.start, look.seconds, shown) for look in looks]
    return [Unit("picture", key, partial(_take_pictures, look, shown)) for key, look in zip(keys, looks, strict=True)]


def read_pictures(result: bytes) -> list[NDArray[np.uint8]]:
    return list(np.load(io.BytesIO(result), allow_pickle=False))


def _take_pictures(look: Look, shown: _Look, guard: Guard) -> bytes:
    frames = np.zeros((0, 1, 1, 3), np.uint8)
    with suppress(VideoError), opened(look.video, guard) as path:
        frames = frames_of(path, look.info, look.start, look.seconds, *shown).pixels
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()
