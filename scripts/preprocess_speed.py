"""The probe, and decoding and resizing, against plain PyAV and the decoder's own limit at the same work, in turns."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import av
from av.video.reformatter import VideoReformatter
from model_inputs import say
from model_speed import compare

from data.decoders import Size, read_frames
from data.probe import VideoError, VideoInfo, probe
from data.video import cover
from video_dit.config import DataConfig
from video_dit.errors import UserError

WARM_UPS = 1
PROBES = 10
"""Of ours, for one full decode: a single one is too short to be measured."""

Work = Callable[[], object]


def measure_preprocess(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Two rows for each video: probing, against decoding all frames; and decoding at a size, against the limit.

    Raises:
        UserError: a video cannot be read.
    """
    rows = []
    for path in args.videos:
        try:
            info = probe(path, DataConfig().limits)
            say(f"{path.name}: {args.repeats} rounds of each")
            rows += [probe_row(path, info, args.repeats), decode_row(path, info, args)]
        except VideoError as error:
            raise UserError(f"{path}: {error}") from error
    return rows


def probe_row(path: Path, info: VideoInfo, repeats: int) -> dict[str, Any]:
    """How many times faster the probe is than decoding all frames of its stream."""
    limits = DataConfig().limits
    seconds = in_turns(
        {
            "ours": lambda: [probe(path, limits) for _ in range(PROBES)],
            "full decode": lambda: decode_all(path, info.stream),
        },
        repeats,
    )
    ours = [taken / PROBES for taken in seconds["ours"]]
    return {"video": path.name, "work": "probe", "full decode": compare(seconds["full decode"], ours)}


def decode_row(path: Path, info: VideoInfo, args: argparse.Namespace) -> dict[str, Any]:
    """Frames per second of `read_frames` relative to PyAV on one thread, which is the limit, and as it comes."""
    size = cover(info.size, (args.height, args.height))
    times = frame_times(path, info)
    limits = DataConfig().limits

    def ours() -> None:
        count = sum(1 for _ in read_frames(path, info, times, size, args.decoder, limits))
        if count != len(times):
            raise UserError(f"{path}: {args.decoder} gives {count} frames, and PyAV {len(times)}")

    seconds = in_turns(
        {
            "ours": ours,
            "limit": lambda: decode_and_resize(path, info, size, True, VideoReformatter()),
            "plain PyAV": lambda: decode_and_resize(path, info, size, False, None),
        },
        args.repeats,
    )
    return {
        "video": path.name,
        "work": "decode and resize",
        "frames": len(times),
        "size": size,
        "frames_per_second": {name: len(times) / median(taken) for name, taken in seconds.items()},
        **{name: compare(seconds[name], seconds["ours"]) for name in ("limit", "plain PyAV")},
    }


def frame_times(path: Path, info: VideoInfo) -> list[float]:
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        return [frame.time - info.start for frame in container.decode(stream) if frame.time is not None]


def decode_all(path: Path, index: int) -> int:
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[index]
        stream.thread_type = "AUTO"
        return sum(1 for _ in container.decode(stream))


def decode_and_resize(
    path: Path, info: VideoInfo, size: Size, one_thread: bool, reformatter: VideoReformatter | None
) -> None:
    """All frames as RGB; otherwise as PyAV comes, which chooses its threads, and makes a reformatter for each frame."""
    height, width = size[::-1] if info.quarter_turns % 2 else size
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams[info.stream]
        if one_thread:
            stream.thread_type, stream.thread_count = "NONE", 1
        for frame in container.decode(stream):
            scaled = (reformatter or VideoReformatter()).reformat(frame, width, height, "rgb24", interpolation="AREA")
            scaled.to_ndarray()


def in_turns(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-WARM_UPS, repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def preprocess_table(rows: list[dict[str, Any]]) -> str:
    """Speeds of ours, relative to each of the others: more than 1 is faster."""
    lines = [f"{'':28}{'':20}{'ours against':>14}{'ratio':>9}{'min to max':>20}"]
    for row in rows:
        for name in ("full decode", "limit", "plain PyAV"):
            if name in row:
                ratio = row[name]
                spread = f"{ratio['ratio_min']:.2f} to {ratio['ratio_max']:.2f}"
                lines.append(f"{row['video'][:27]:28}{row['work']:20}{name:>14}{ratio['ratio']:>9.2f}{spread:>20}")
    return "\n".join(lines)
