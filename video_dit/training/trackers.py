"""Where curves and clips go: TensorBoard, and services that draw them."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from video_dit.config import Config
from video_dit.errors import UserError
from video_dit.run_folder import RunFolder


class SampleClip(NamedTuple):
    """A clip that training has made, as a file and as what a GIF file holds.

    size: height and width in pixels.
    """

    prompt: str
    mp4: Path
    gif: bytes
    size: tuple[int, int]


class Tracker(Protocol):
    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def clips(self, clips: list[SampleClip], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder; what was written there after `last_step` is taken back."""

    def __init__(self, folder: Path, last_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def clips(self, clips: list[SampleClip], step: int) -> None:
        """As moving images, which is what TensorBoard plays; its own way to make one needs moviepy."""
        for index, clip in enumerate(clips):
            height, width = clip.size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=clip.gif)
            value = Summary.Value(tag=f"samples/{index}: {clip.prompt}", image=image)
            self._writer._get_file_writer().add_summary(Summary(value=[value]), step)

    def close(self) -> None:
        self._writer.close()


class Service:
    """Weights & Biases, or trackio, which has the same interface.

    Where they send what they are told is their own affair: WANDB_MODE=offline keeps it in the run's folder, and trackio
    keeps it on this machine unless told otherwise.

    Args:
        name: of the package.
        run: whose name is the run's.
        config: of the run.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, name: str, run: RunFolder, config: Config) -> None:
        try:
            self._module: Any = importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"training.trackers has {name!r}, which cannot be imported ({error}): pip install {name}"
            ) from error
        run_name = run.path.resolve().name
        own = {"dir": str(run.path)} if name == "wandb" else {"resume": "allow"}
        self._run = self._module.init(
            project=config.training.tracker_project, name=run_name, group=run_name,
            config=config.model_dump(mode="json"), **own,
        )  # fmt: skip

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def clips(self, clips: list[SampleClip], step: int) -> None:
        videos = [self._module.Video(str(clip.mp4), caption=clip.prompt, format="mp4") for clip in clips]
        self._run.log({f"samples/{index}": video for index, video in enumerate(videos)}, step=step)

    def close(self) -> None:
        self._run.finish()
