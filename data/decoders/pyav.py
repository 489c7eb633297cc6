"""Decoding by PyAV: FFmpeg's own libraries, at the side of which the other decoders are measured."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from data.decoders.contract import Picture, Size, check_complete
from data.probe import VideoError, VideoInfo, check_limits, open_video, reason, timestamp
from video_dit.config import Limits

SEEK_AHEAD = 2.0
"""Seconds to the next wanted frame from which on a seek is tried in files without an index of all frames."""

STEP_BACK = 1.0
"""Seconds that a seek goes back when the first frame came out late; twice as many each time."""

MAX_DISORDER = 1.0
"""Seconds that timestamps may go back, and the frame is left out; more is another beginning of time."""


def read_frames(path: Path, info: VideoInfo, seconds: Iterable[float], size: Size, limits: Limits) -> Iterator[Picture]:
    """As `data.decoders.read_frames` says."""
    scale = _Scaler(info, size)
    picture: Picture | None = None
    with ExitStack() as files:
        position = _Position(path, info, limits, files)
        for wanted in seconds:
            shown = position.showing_at(wanted)
            if shown is None:
                return
            if picture is None or picture.seconds != shown.seconds:
                picture = Picture(shown.seconds, scale(shown.frame))
            yield picture


class _Scaler:
    """From a frame as it is coded to RGB [H, W, 3] as it is shown; averages areas, so that shrinking does not alias."""

    def __init__(self, info: VideoInfo, size: Size):
        self.info = info
        self.height, self.width = size[::-1] if info.quarter_turns % 2 else size
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        scaled = self.reformatter.reformat(frame, self.width, self.height, "rgb24", interpolation="AREA")
        pixels = scaled.to_ndarray()
        if self.info.mirrored:
            pixels = pixels[:, ::-1]
        return np.rot90(pixels, self.info.quarter_turns)


class _Timed(NamedTuple):
    seconds: float
    frame: VideoFrame


class _Position:
    """A place in a stream: the frame that shows, and the one after it. Goes on, or seeks where that is less work."""

    def __init__(self, path: Path, info: VideoInfo, limits: Limits, files: ExitStack):
        self.path, self.info, self.limits, self.files = path, info, limits, files
        self.gap = 1 / (info.average_rate or 25)
        self.num_decoded = 0
        self.problem: VideoError | None = None
        self.shown: _Timed | None = None
        self._open()

    def showing_at(self, seconds: float) -> _Timed | None:
        """The frame that a player shows then; None after the last one, which lasts as long as the one before it.

        Raises:
            VideoError: it is beyond the last frame that can be decoded, and not the end of the video.
        """
        time = seconds + self.info.lateness
        if self._is_ahead(time):
            self._seek(time)
        elif self.shown is None:
            self.shown, self.following = self._next(), self._next()
        while self.following is not None and self.following.seconds <= time:
            self.gap = self.following.seconds - self.shown.seconds
            self.shown, self.following = self.following, self._next()
        if self.shown is not None and (self.following is not None or time < self.shown.seconds + self.gap):
            return self.shown
        if self.problem is not None:
            raise self.problem
        check_complete(self.info, self.num_decoded, self.shown.seconds + self.gap if self.shown else 0.0)
        return None

    def _open(self) -> None:
        """At the first frame."""
        self.files.close()
        self.container, self.stream = self.files.enter_context(open_video(self.path, self.info.stream))
        self.stream.thread_type = "AUTO"
        self.decoded = self.container.decode(self.stream)
        self.shown = self.following = None

    def _is_ahead(self, time: float) -> bool:
        """Whether a keyframe lies between the frames that are decoded and the one that shows at this time."""
        latest = self.following or self.shown
        here = latest.seconds if latest else 0.0
        if time <= here or self.problem is not None:
            return False
        index = self.stream.index_entries
        if self.info.num_frames and len(index) >= self.info.num_frames:
            found = index.search_timestamp(self._ticks(time))
            return found >= 0 and index[found].timestamp > self._ticks(here)
        return time > here + SEEK_AHEAD

    def _ticks(self, seconds: float) -> int:
        return round((self.info.start + seconds) / self.stream.time_base)

    def _seek(self, time: float) -> None:
        """To a frame that shows at this time or before it.

        Where a keyframe is followed by frames that show before it, the first one to come out may be late.
        """
        back = 0.0
        while time > back:
            try:
                self.container.seek(self._ticks(time - back), stream=self.stream)
            except av.FFmpegError:
                break  # a format that cannot seek
            self.decoded = self.container.decode(self.stream)
            self.shown = self.following = None
            self.shown = self._next()
            if self.shown is not None and self.shown.seconds <= time:
                self.following = self._next()
                return
            self.problem = None
            back = max(STEP_BACK, 2 * back)
        self._open()
        self.shown, self.following = self._next(), self._next()

    def _next(self) -> _Timed | None:
        """The next frame that is later than the one before it; None at the end, and where decoding fails."""
        before = self.following or self.shown
        try:
            for frame in self.decoded:
                self.num_decoded += 1
                seconds = float(timestamp(frame) * self.stream.time_base) - self.info.start
                check_limits((frame.height, frame.width), seconds, self.num_decoded, self.limits)
                if before is None or seconds > before.seconds:
                    return _Timed(seconds, frame)
                if seconds < before.seconds - MAX_DISORDER:
                    raise VideoError(f"has timestamps that go back, from {before.seconds:.3f} to {seconds:.3f} s")
        except VideoError as error:
            self.problem = error
        except av.FFmpegError as error:
            self.problem = VideoError(f"cannot be decoded: {reason(error)}")
        return None
