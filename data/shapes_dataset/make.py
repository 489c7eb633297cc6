"""The shapes as video files with a manifest."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.shapes_dataset.render import ALL_ATTRIBUTES, COLOURS, DIRECTIONS, SHAPES, Attributes, random_scene, render
from data.video import write_mp4
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.seeds import derive_seed

FPS = 8
NUM_HELD_OUT = 12


class ClipPlan(NamedTuple):
    """One clip to render. `number` tells clips of the same objects apart."""

    split: str
    objects: tuple[Attributes, ...]
    number: int

    @property
    def name(self) -> str:
        words = "-and-".join(f"{o.colour}-{o.shape}-{o.direction}" for o in self.objects)
        return f"{self.split}/{words}-{self.number:03d}.mp4"


def held_out_attributes() -> tuple[Attributes, ...]:
    """The twelve combinations that no training clip shows.

    Each colour is among them twice, with different shapes and directions, each shape four times, each direction thrice.
    """
    colours, shapes, directions = list(COLOURS), SHAPES, list(DIRECTIONS)
    held_out = []
    for index in range(NUM_HELD_OUT):
        colour = index % len(colours)
        direction = (colour + 2 * (index // len(colours))) % len(directions)
        shape = (index + 1 + index // len(colours)) % len(shapes)
        held_out.append(Attributes(colours[colour], shapes[shape], directions[direction]))
    return tuple(held_out)


def seen_attributes() -> tuple[Attributes, ...]:
    """The combinations that training clips show."""
    held_out = set(held_out_attributes())
    return tuple(attributes for attributes in ALL_ATTRIBUTES if attributes not in held_out)


def plan_clips(clips_per_combination: int, seed: int) -> list[ClipPlan]:
    """Splits train (seen combinations), held_out, and two_objects, where each object is of a seen combination."""
    plans = [ClipPlan("train", (a,), n) for a in seen_attributes() for n in range(clips_per_combination)]
    plans += [ClipPlan("held_out", (a,), n) for a in held_out_attributes() for n in range(4)]
    rng = np.random.default_rng(derive_seed(seed, "two objects"))
    for number in range(48):
        first, second = rng.choice(len(seen_attributes()), size=2, replace=False)
        plans.append(ClipPlan("two_objects", (seen_attributes()[first], seen_attributes()[second]), number))
    return plans


def make_clips(
    out: Path,
    clips_per_combination: int,
    num_frames: int,
    size: int,
    seed: int,
    progress: Callable[[list[ClipPlan]], Iterable[ClipPlan]],
) -> Path:
    """Renders every clip as H.264 and writes manifest.jsonl (path, caption, split) last.

    What a clip shows depends on its plan, `num_frames`, `size` and `seed` alone. Files that are already there are kept.

    Returns:
        the manifest.

    Raises:
        UserError: the folder holds shapes of other settings.
    """
    settings = {"num_frames": num_frames, "size": size, "seed": seed}
    settings_path = out / "shapes.json"
    if settings_path.exists() and json.loads(settings_path.read_text()) != settings:
        raise UserError(f"{out} holds shapes made with {settings_path.read_text().strip()}: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(settings_path, json.dumps(settings) + "\n")
    rows = []
    for plan in progress(plan_clips(clips_per_combination, seed)):
        scene = random_scene(plan.objects, np.random.default_rng(derive_seed(seed, plan.name)))
        path = out / plan.name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished.mp4")
            write_mp4(unfinished, render(scene, num_frames, size), FPS)
            unfinished.replace(path)
        rows.append({"path": plan.name, "caption": scene.caption, "split": plan.split})
    manifest = out / "manifest.jsonl"
    write_atomically(manifest, "".join(json.dumps(row) + "\n" for row in rows))
    return manifest
