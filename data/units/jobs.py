"""What units say of videos and clips to a worker, and how a worker opens a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data.engine import Guard, ItemError
from data.probe import VideoError, VideoInfo
from data.sources.captions import Caption
from data.sources.discovery import Video
from data.stages.clips import Clip
from data.storage import as_file


class ClipJob(NamedTuple):
    """What a worker has to know of a clip."""

    video: Video
    info: VideoInfo
    clip: Clip
    captions: tuple[Caption, ...]

    @property
    def identity(self) -> tuple[Any, ...]:
        """What names its pictures."""
        return (*identity(self.video), self.clip.id, self.clip.start, self.clip.seconds)


def identity(video: Video) -> tuple[Any, ...]:
    """What names a video's content."""
    return video.id, video.place.size, video.place.version


@contextmanager
def opened(video: Video, guard: Guard, seconds: float = 0.0, clip: str | None = None) -> Iterator[Path]:
    """The file of a video under the guard; what hangs or crashes is a VideoError too.

    Args:
        seconds: that it may take, besides the limit for all.
        clip: the id of the only one that is looked at, so that nothing else is blamed for it.
    """
    try:
        with guard.item(clip or video.id, seconds), as_file(video.place) as path:
            yield path
    except ItemError as error:
        raise VideoError(str(error)) from error
