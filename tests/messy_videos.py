"""A small pile of videos as a user has them, and what preprocesses it with much switched on."""

import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.video import write_mp4

FPS = 8
SETTINGS = (
    "data.fps=8", "data.num_frames=4", "data.height=32", "data.width=32", "data.clips_per_shard=3",
    "text_encoder.max_length=4", "buckets.sizes=[32]", "buckets.aspects=['1:1', '2:1']",
    "filters.min_change=0.002", "filters.min_difference=0.05", "filters.scorers={mean = 'messy_videos:score'}",
)  # fmt: skip

GATE = "VIDEO_DIT_TEST_GATE"
"""Of the environment: the path of a pipe at which `score` waits, after it has written its process to PATH.pid."""


def make_messy_videos(folder: Path) -> Path:
    """Of two shapes and one or two shots; near-duplicates, a video that stands still, a short one, two damaged ones."""
    folder.mkdir()
    shots = {name: moving(seed) for seed, name in enumerate("abcdefgh")}
    for name, frames in {
        **shots,
        "two_shots": np.concatenate([moving(8), np.zeros_like(moving(8)), moving(9)]),
    }.items():
        write_mp4(folder / f"{name}.mp4", frames, FPS)
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    for seed in (10, 11):
        write_mp4(folder / f"wide_{seed}.mp4", moving(seed)[:, :32], FPS)
    write_mp4(folder / "b_again.mp4", shots["b"], FPS)
    write_mp4(folder / "still.mp4", shots["c"][:1].repeat(12, 0), FPS)
    write_mp4(folder / "short.mp4", shots["d"][:2], FPS)
    content = bytearray((folder / "two_shots.mp4").read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 300] = bytes(300)
    (folder / "damaged.mp4").write_bytes(content)
    (folder / "text.mp4").write_text("no video at all")
    return folder


def moving(seed: int, num_frames: int = 12) -> NDArray[np.uint8]:
    """[F, 64, 64, 3]: a texture of its own that moves to the left."""
    texture = np.random.default_rng(seed).integers(0, 256, (8, 24, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return np.stack([texture[:, 4 * k : 4 * k + 64] for k in range(num_frames)])


def score(frames: NDArray[np.uint8]) -> float:
    """A scorer that can be stopped, does not survive red clips, and never gets done with blue ones."""
    if gate := os.environ.get(GATE):
        Path(f"{gate}.pid").write_text(f"{os.getpid()}\n")
        Path(gate).read_bytes()
    red, _, blue = frames.mean((0, 1, 2))
    if red > 220:
        os.abort()
    if blue > 220:
        threading.Event().wait()
    return float(frames.mean())
