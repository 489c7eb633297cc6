import json
from pathlib import Path

import numpy as np
import pytest

from data.shapes_dataset.make import held_out_attributes, make_clips, plan_clips, seen_attributes
from data.shapes_dataset.oracle import read
from data.shapes_dataset.render import ALL_ATTRIBUTES, SHAPES, Attributes, coverage, random_scene, render
from data.video import read_windows, write_mp4
from video_dit.config import DataConfig
from video_dit.errors import UserError
from video_dit.evaluation.accuracy import wilson_interval


def accuracy(asked: list[Attributes], clips: list[np.ndarray]) -> dict[str, float]:
    answers = [read(clip) for clip in clips]
    pairs = list(zip(asked, answers, strict=True))
    shares = {
        name: sum(getattr(a, name) == getattr(b, name) for a, b in pairs) / len(pairs)
        for name in ("colour", "shape", "direction")
    }
    return {"all": sum(a == b for a, b in pairs) / len(pairs), **shares}


def test_the_oracle_reads_fresh_clips_after_h264(tmp_path: Path) -> None:
    """At the size and rate that preprocessing makes of the data set by default."""
    rng, config = np.random.default_rng(1), DataConfig()
    asked, clips = [], []
    for attributes in ALL_ATTRIBUTES * 2:
        write_mp4(tmp_path / "clip.mp4", render(random_scene((attributes,), rng), 16, 64), fps=8)
        asked.append(attributes)
        clips += [window.frames for window in read_windows(tmp_path / "clip.mp4", config)]
    assert accuracy(asked, clips)["all"] >= 0.99


def test_the_oracle_is_at_chance_on_noise(rng: np.random.Generator) -> None:
    asked = list(ALL_ATTRIBUTES) * 5
    shares = accuracy(asked, [rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8) for _ in asked])
    for name, chance in (("all", 1 / 72), ("colour", 1 / 6), ("shape", 1 / 3), ("direction", 1 / 4)):
        low, high = wilson_interval(round(shares[name] * len(asked)), len(asked), z=3)
        assert low <= chance <= high, name


def test_every_kind_of_blank_clip_gets_an_answer() -> None:
    for level in (0, 128, 255):
        assert read(np.full((4, 16, 16, 3), level, dtype=np.uint8)) in ALL_ATTRIBUTES


def test_twelve_combinations_are_held_out_and_no_part_of_them_is_unseen() -> None:
    held_out, seen = set(held_out_attributes()), set(seen_attributes())
    assert len(held_out) == 12
    assert len(seen) == 60
    assert not held_out & seen
    for attributes in held_out:  # each pair of words of a held-out prompt is seen in other prompts
        assert any((a.colour, a.shape) == (attributes.colour, attributes.shape) for a in seen)
        assert any((a.colour, a.direction) == (attributes.colour, attributes.direction) for a in seen)
        assert any((a.shape, a.direction) == (attributes.shape, attributes.direction) for a in seen)


def test_no_training_clip_shows_a_held_out_combination() -> None:
    shown = {o for plan in plan_clips(2, seed=0) if plan.split in ("train", "two_objects") for o in plan.objects}
    assert not shown & set(held_out_attributes())


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_radius_have_the_area_of_its_circle(shape: str) -> None:
    """Also when they lie between pixels: that is what anti-aliasing is."""
    for centre in ((32.0, 32.0), (31.7, 32.4)):
        assert coverage(shape, 64, centre, 12.0).sum() == pytest.approx(np.pi * 144, rel=0.01)


def test_objects_stay_in_the_frame() -> None:
    """The border of every frame is background."""
    rng = np.random.default_rng(2)
    for attributes in ALL_ATTRIBUTES:
        scene = random_scene((attributes,), rng)
        frames = render(scene, 8, 64)
        for border in (frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]):
            assert (border == scene.background).all()


def test_a_clip_is_the_same_whatever_else_is_made(shapes_videos: Path, tmp_path: Path) -> None:
    make_clips(tmp_path, clips_per_combination=2, num_frames=8, size=64, seed=0, progress=lambda plans: plans[:3])
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    config = DataConfig(fps=8, height=64, width=64)
    for row in rows:
        if (shapes_videos / row["path"]).exists():
            ours, theirs = (
                next(read_windows(folder / row["path"], config)).frames for folder in (tmp_path, shapes_videos)
            )
            # x264 does not always write the same bytes for the same small frames, but what it writes looks the same
            assert np.abs(ours.astype(int) - theirs).mean() < 0.5
    assert rows[0] == {"path": "train/red-circle-left-000.mp4", "caption": "a red circle moves left", "split": "train"}


def test_other_settings_want_another_folder(shapes_videos: Path) -> None:
    with pytest.raises(UserError, match="name another folder"):
        make_clips(shapes_videos, 1, num_frames=9, size=64, seed=0, progress=lambda plans: plans)
