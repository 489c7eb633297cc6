"""Decoding by PyAV: FFmpeg's own libraries, at the side of which the other decoders are measured."""

import math
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
from data.decoders.lookahead import EXACT, Wanted, with_need
from data.probe import VideoError, VideoInfo, check_limits, open_video, reason, timestamp
from video_dit.config import Limits

SEEK_AHEAD = 2.0
"""Seconds to the next wanted frame from which on a seek is tried in files without an index of all frames."""

STEP_BACK = 1.0
"""Seconds that a seek goes back when the first frame came out late; twice as many each time."""

HD_ROWS, HD_COLUMNS = 720, 1280
"""Pixels of a frame that has at least one of them."""

_BT709, _UNSPECIFIED = 1, 2
"""ITU-T H.273's numbers of matrices."""

MAX_DISORDER = 1.0
"""Seconds that timestamps may go back, and the frame is left out; more is another beginning of time."""


def read_frames(path: Path, info: VideoInfo, seconds: Iterable[float], size: Size, limits: Limits) -> Iterator[Picture]:
    """As `data.decoders.read_frames` says."""
    scale = _Scaler(info, size)
    picture: Picture | None = None
    wanted = Wanted(time + info.lateness for time in seconds)
    with ExitStack() as files:
        position = _Position(_Stream(path, info, limits, files, wanted))
        for time in wanted:
            shown = position.showing_at(time)
            if shown is None:
                return
            if picture is None or picture.seconds != shown.seconds:
                picture = Picture(shown.seconds, scale(shown.frame))
            yield picture


class ReferenceFrames:
    """The frames of a video that others refer to, in order: a cheap look at all of it.

    Those that B-frames and the like would add are neither decoded nor shown, which is half of the work in many files;
    where a codec has none of them, or its decoder does not skip them, all frames come.

    Args: those of `data.decoders.read_frames`.

    Raises:
        VideoError: while it is iterated over, as there. What can be decoded has been yielded before.
    """

    def __init__(self, path: Path, info: VideoInfo, size: Size, limits: Limits):
        self.path, self.info, self.size, self.limits = path, info, size, limits
        self.end = 0.0
        """Seconds at which the last frame ends that has been decoded; at the end of the video, the last of all."""

    def __iter__(self) -> Iterator[Picture]:
        scale = _Scaler(self.info, self.size)
        with ExitStack() as files:
            stream = _Stream(self.path, self.info, self.limits, files, None)
            gap, timed = 1 / (self.info.average_rate or 25), None
            while (timed := stream.next(timed)) is not None:
                self.end = timed.seconds + gap
                yield Picture(timed.seconds, scale(timed.frame))
            if stream.problem is not None:
                raise stream.problem
            before, last = stream.latest
            if before > -math.inf:
                gap = stream.seconds(last) - stream.seconds(before)
            self.end = stream.end(last, stream.duration, gap)
            check_complete(self.info, stream.num_packets, self.end)


class _Scaler:
    """From a frame as it is coded to RGB [H, W, 3] as it is shown; averages areas, so that shrinking does not alias.

    A frame that does not name its matrix is converted by BT.709 where it is of HD, as players do, else by BT.601. What
    is transparent has white behind it.
    """

    def __init__(self, info: VideoInfo, size: Size):
        self.info = info
        self.height, self.width = size[::-1] if info.quarter_turns % 2 else size
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        is_hd = frame.height >= HD_ROWS or frame.width >= HD_COLUMNS
        if is_hd and frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
            frame.colorspace = _BT709
        scaled = self.reformatter.reformat(
            _on_white(frame), self.width, self.height, "rgb24", interpolation="AREA", threads=1
        )
        pixels = scaled.to_ndarray()
        if self.info.mirrored:
            pixels = pixels[:, ::-1]
        return np.rot90(pixels, self.info.quarter_turns)


def _on_white(frame: VideoFrame) -> VideoFrame:
    """Before it is scaled, as the colours of what is transparent would be averaged with those beside it."""
    if not (frame.format.has_palette or any(component.is_alpha for component in frame.format.components)):
        return frame
    pixels = frame.to_ndarray(format="rgba")
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return frame
    shown = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return VideoFrame.from_ndarray(shown.astype(np.uint8), format="rgb24")


class _Timed(NamedTuple):
    seconds: float
    frame: VideoFrame


class _Stream:
    """Frames of a stream in order, each later than the one before it.

    Of those that no other frame refers to, it gives as few as it can: where the codec lets it know, and then all that
    show at one of the wanted times; if there are none, no such frame.
    """

    def __init__(self, path: Path, info: VideoInfo, limits: Limits, files: ExitStack, wanted: Wanted | None):
        self.path, self.info, self.limits, self.files, self.wanted = path, info, limits, files, wanted
        self.num_decoded = self.num_packets = 0
        self.open()

    def open(self) -> None:
        """At the first frame."""
        self.files.close()
        self.container, self.stream = self.files.enter_context(open_video(self.path, self.info.stream))
        self.stream.thread_type, self.stream.thread_count = "NONE", 1
        self._takes_all = self.wanted is not None and self.stream.codec_context.codec.canonical_name not in EXACT
        self.restart()

    def seek(self, seconds: float) -> bool:
        """To the keyframe at this time or before it; False in a format that cannot seek."""
        try:
            self.container.seek(self.ticks(seconds), stream=self.stream)
        except av.FFmpegError:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        self.latest: tuple[float, ...] = (-math.inf, -math.inf)
        """Ticks of the two last frames that the decoder has been given, also where they do not come out."""
        self.duration = 0
        """Ticks that the last one shows; 0 where the file does not say it."""
        self.problem: VideoError | None = None
        """Why there are no more frames, where that is not the end of the video."""
        self.decoded = self._decode()

    def ticks(self, seconds: float) -> int:
        return round((self.info.start + seconds) / self.stream.time_base)

    def seconds(self, ticks: float) -> float:
        return float(ticks * self.stream.time_base) - self.info.start

    def end(self, ticks: float, duration: int, gap: float) -> float:
        """Seconds at which the last frame ends: after its own duration, or else as long as the one before it.

        Raises:
            VideoError: that is beyond the limits.
        """
        end = self.seconds(ticks) + (float(duration * self.stream.time_base) or gap)
        check_limits(self.info.coded_size, end, self.num_frames, self.limits)
        return end

    def next(self, before: _Timed | None) -> _Timed | None:
        """The next frame that is later than `before`; None at the end, and where there is a problem."""
        try:
            for frame in self.decoded:
                self.num_decoded += 1
                seconds = self.seconds(timestamp(frame))
                check_limits((frame.height, frame.width), seconds, self.num_frames, self.limits)
                if before is None or seconds > before.seconds:
                    return _Timed(seconds, frame)
                if seconds < before.seconds - MAX_DISORDER:
                    raise VideoError(f"has timestamps that go back, from {before.seconds:.3f} to {seconds:.3f} s")
        except VideoError as error:
            self.problem = error
        except av.FFmpegError as error:
            self.problem = VideoError(f"cannot be decoded: {reason(error)}")
        return None

    @property
    def num_frames(self) -> int:
        """That were decoded; where some are left out, the packets of all."""
        return self.num_decoded if self._takes_all else self.num_packets

    def _decode(self) -> Iterator[VideoFrame]:
        for packet, is_needed in self._packets():
            if packet.size and not packet.is_discard:
                self.num_packets += 1
                ticks = packet.dts if packet.pts is None else packet.pts
                if ticks is not None and ticks not in self.latest:
                    self.latest = tuple(sorted((*self.latest, ticks))[1:])
                    if ticks == self.latest[1]:
                        self.duration = packet.duration or 0
            self.stream.codec_context.skip_frame = "DEFAULT" if is_needed else "NONREF"
            yield from packet.decode()

    def _packets(self) -> Iterator[tuple[av.Packet, bool]]:
        """Each with whether its frame has to come out if no other refers to it."""
        packets = self.container.demux(self.stream)
        if self._takes_all or self.wanted is None:
            return ((packet, self._takes_all) for packet in packets)
        return with_need(packets, self._is_wanted)

    def _is_wanted(self, begin: int, end: int) -> bool:
        assert self.wanted is not None
        return self.wanted.has_any(self.seconds(begin), self.seconds(end))


class _Position:
    """A place in a stream: the frame that shows, and the one after it. Goes on, or seeks where that is less work."""

    def __init__(self, stream: _Stream):
        self.stream, self.info = stream, stream.info
        self.gap = 1 / (self.info.average_rate or 25)
        self.shown: _Timed | None = None
        self.following: _Timed | None = None

    def showing_at(self, time: float) -> _Timed | None:
        """The frame that a player shows then; None after the last one.

        Args:
            time: in seconds, of the wanted ones, with the lateness of the frames.

        Raises:
            VideoError: it is beyond the last frame that can be decoded, and not the end of the video.
        """
        if self._is_ahead(time):
            self._seek(time)
        elif self.shown is None:
            self._start()
        while self.following is not None and self.following.seconds <= time:
            self.gap = self.following.seconds - self.shown.seconds
            self.shown, self.following = self.following, self.stream.next(self.following)
        if self.following is not None:
            return self.shown
        end = 0.0
        if self.shown is not None:
            end = self.stream.end(timestamp(self.shown.frame), self.shown.frame.duration, self.gap)
        if time < end:
            return self.shown
        if self.stream.problem is not None:
            raise self.stream.problem
        check_complete(self.info, self.stream.num_frames, end)
        return None

    def _start(self) -> None:
        """Takes the next two frames of the stream."""
        self.shown, self.following = self.stream.next(None), None
        if self.shown is not None:
            self.following = self.stream.next(self.shown)

    def _is_ahead(self, time: float) -> bool:
        """Whether a keyframe lies between the frames that the decoder has and the one that shows at this time."""
        here = max(0.0, self.stream.seconds(self.stream.latest[1]))
        is_at_end = self.shown is not None and self.following is None
        if time <= here or is_at_end or self.stream.problem is not None:
            return False
        index = self.stream.stream.index_entries
        if self.info.num_frames and len(index) >= self.info.num_frames:
            reordering = self.stream.ticks(0) - index[0].timestamp  # the index has the times of decoding
            found = index.search_timestamp(self.stream.ticks(time) - reordering)
            return found >= 0 and index[found].timestamp + reordering > self.stream.ticks(here)
        return time > here + SEEK_AHEAD

    def _seek(self, time: float) -> None:
        """To a frame that shows at this time or before it.

        Where a keyframe is followed by frames that show before it, the first one to come out may be late.
        """
        back = 0.0
        while time > back and self.stream.seek(time - back):
            self._start()
            if self.shown is not None and self.shown.seconds <= time:
                return
            back = max(STEP_BACK, 2 * back)
        self.stream.open()
        self._start()
