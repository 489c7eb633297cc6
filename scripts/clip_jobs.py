"""From what a user asks for to what the pipeline is called with: files read, settings complete, batches made."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.probe import VideoError
from data.video import read_windows
from video_dit.config import DataConfig, with_changes
from video_dit.errors import UserError
from video_dit.sampling.given_frames import read_image
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.sampling.plan import Plan
from video_dit.sampling.requests import ClipRequest


class Job(NamedTuple):
    """A clip that can be made.

    request: with every setting that it will be made with.
    plan: of the clip.
    given: its image, last_image and video, as far as there are some.
    """

    request: ClipRequest
    plan: Plan
    given: dict[str, Tensor]

    @property
    def num_steps(self) -> int:
        """Solver steps, over all windows."""
        return len(self.plan.windows) * int(self.request.sampling["num_steps"])

    @property
    def key(self) -> str:
        """The same for jobs that the pipeline can do in one call."""
        return repr((self.request.settings, [(name, frames.shape) for name, frames in self.given.items()]))


def plan_jobs(pipeline: VideoPipeline, requests: Sequence[ClipRequest]) -> list[Job]:
    """Reads what is given and settles every setting, before anything is generated.

    Raises:
        UserError: a file cannot be read, or a clip cannot be made as asked.
    """
    jobs = []
    for request in requests:
        try:
            jobs.append(_plan(pipeline, request))
        except UserError as error:
            raise UserError(f"{request.prompt!r}: {error}" if len(requests) > 1 else str(error)) from error
    return jobs


def _plan(pipeline: VideoPipeline, request: ClipRequest) -> Job:
    trained = pipeline.config.data
    size = {"height": request.height or trained.height, "width": request.width or trained.width}
    config = with_changes(pipeline.config, "sampling", request.sampling)
    given = {name: read_image(path, **size) for name in ("image", "last_image") if (path := getattr(request, name))}
    if request.video:
        one_by_one = trained.model_copy(update={**size, "fps": request.fps or trained.fps, "num_frames": 1})
        given["video"] = _read_video(request.video, one_by_one.model_dump_json())
    plan = pipeline.plan(
        **{key: getattr(request, key) for key in ("num_frames", "height", "width", "fps", "window", "overlap")},
        image="image" in given,
        last_image="last_image" in given,
        video_frames=len(given.get("video", ())),
    )
    settled = {
        "num_frames": plan.num_frames,
        "height": plan.window.height,
        "width": plan.window.width,
        "fps": plan.fps,
        "window": plan.window.frames,
        "overlap": plan.overlap,
        "sampling": config.sampling.model_dump(),
    }
    return Job(request.model_copy(update=settled), plan, given)


@lru_cache(maxsize=8)
def _read_video(path: Path, data_config: str) -> Tensor:
    """All frames at the rate and size of a [data] table, as JSON: uint8 [F, H, W, 3]. Clips may share a video."""
    config = DataConfig.model_validate_json(data_config)
    try:
        frames = [window.frames for window in read_windows(path, config)]
    except VideoError as error:
        raise UserError(f"{path}: {error}") from error
    if not frames:
        raise UserError(f"{path}: has no frames")
    return torch.from_numpy(np.concatenate(frames))


def batches_of(jobs: Sequence[Job], batch_size: int) -> list[list[int]]:
    """Indices of jobs that can be done together, at most so many. Depends on nothing but these."""
    alike = defaultdict(list)
    for index, job in enumerate(jobs):
        alike[job.key].append(index)
    return [
        indices[start : start + batch_size]
        for indices in alike.values()
        for start in range(0, len(indices), batch_size)
    ]


def run_jobs(pipeline: VideoPipeline, jobs: Sequence[Job], **options: Any) -> np.ndarray:
    """The clips of jobs with one key, uint8 [B, F, H, W, 3]; `options` are the pipeline's."""
    requests = [job.request for job in jobs]
    given = {name: torch.stack([job.given[name] for job in jobs]) for name in jobs[0].given}
    clips: Tensor = pipeline(
        [request.prompt for request in requests],
        [request.seed for request in requests],
        negative_prompt=[request.negative_prompt for request in requests],
        batch_size=len(jobs),
        **requests[0].settings,
        **given,
        **options,
    )
    return clips.numpy()
