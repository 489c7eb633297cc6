"""Frames of a video at given times and of a given size, by one of several libraries.

All decode on one thread: which frames come out of a damaged file depends on how many there are, and preprocessing has
a process on each core.

`auto` is PyAV for every file, as the others are right on fewer files and hardly faster on any. What was measured, with
PyAV 17.1 and torchcodec 0.13.0 on FFmpeg 8, and decord 0.6.0; frames per second of processor time relative to PyAV,
medians of three rounds in turns, height 256; windows are ten of 17 frames, every third, from all over the file:

| | decord, all / windows | torchcodec, all / windows |
|---|---|---|
| H.264, 720p, 55 s | 0.92 / 1.01 | 0.65 / 1.04 |
| H.264, 720p, 24 s | 0.93 / 1.08 | 0.60 / 1.15 |
| MPEG-4, 480 x 320, 10 s | 0.89 / 0.52 | 0.54 / 0.80 |

- decord returned wrong frames without a word of HEVC, open-GOP H.264, MPEG-TS, cuts without re-encoding and edit lists,
  and refused AV1, GIF, AVI and MPEG-PS. Of pictures on their side it can return four channels.
- decord converts HD that does not name its matrix by BT.601; `pyav` and players, by BT.709.
- torchcodec returned wrong frames without a word of cuts, edit lists, MPEG-TS, MPEG-PS and variable rates with
  B-frames, and failed in AVI. A header does not tell a cut or an edit list from a plain file, so there is no class to
  give it.

`tests/data/test_decoders.py` has the files.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from data.decoders import decord, pyav, torchcodec
from data.decoders.contract import Decoder, Picture, Size
from data.decoders.pyav import ReferenceFrames
from data.probe import VideoInfo
from video_dit.config import Limits

__all__ = ["DECODERS", "Picture", "ReferenceFrames", "Size", "read_frames"]

DECODERS: dict[str, Decoder] = {
    "pyav": pyav.read_frames,
    "decord": decord.read_frames,
    "torchcodec": torchcodec.read_frames,
    "auto": pyav.read_frames,
}


def read_frames(
    path: Path,
    info: VideoInfo,
    seconds: Iterable[float],
    size: Size,
    decoder: Literal["auto", "pyav", "decord", "torchcodec"],
    limits: Limits,
) -> Iterator[Picture]:
    """The frame that a player shows at each of these times, scaled to `size` and turned as it is shown.

    Nothing is kept between calls, and nothing is shared: a call can run in any process.

    Args:
        path: the file.
        info: what `probe` says of it.
        seconds: from the first frame on, ascending; an endless iterable gives the whole video. After its end, nothing
            is yielded.
        size: (height, width) of the frames; those of another shape are stretched to it.
        decoder: who decodes.
        limits: of what a file may ask for.

    Raises:
        VideoError: decoding fails, the file is shorter than its header says, or it is beyond the limits. What can be
            decoded has been yielded before.
    """
    return DECODERS[decoder](path, info, seconds, size, limits)
