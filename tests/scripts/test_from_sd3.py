"""From an image checkpoint to a video run that trains and generates."""

from pathlib import Path

import pytest
from launch import run_script

from video_dit.config import load_config

pytestmark = pytest.mark.slow


def test_an_image_checkpoint_becomes_the_start_of_a_video_run(tiny_shards: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    sd3 = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=4, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=24, pooled_projection_dim=16,
        pos_embed_max_size=8, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    sd3.save_pretrained(tmp_path / "sd3/transformer")

    make = ("from_sd3.py", tmp_path / "sd3", "--data", tiny_shards, "--out")
    made = run_script(*make, tmp_path / "start")
    assert made.returncode == 0, made.stderr
    assert "so that their layers start afresh: text (16 for 24)\n" in made.stdout
    config = load_config(tmp_path / "start/config.toml")
    assert (config.model.attention_pattern, config.model.patch_size) == ("factorised", (1, 4, 4))

    train = ("train.py", "--config", tmp_path / "start/config.toml", "--data", tiny_shards, "--run", tmp_path / "run")
    trained = run_script(*train, "training.steps=2", "training.batch_size=8")
    assert trained.returncode == 0, trained.stderr
    clips = run_script("generate.py", "--run", tmp_path / "run", "--out", tmp_path / "clips", "a red circle")
    assert clips.returncode == 0, clips.stderr

    other = run_script(*train[:-1], tmp_path / "other", "model.depth=3")
    assert other.returncode == 2
    assert "(training.initial_weights) is of another model: " in other.stderr
    absent = run_script(*train[:-1], tmp_path / "other", f"training.initial_weights={tmp_path / 'gone'}")
    assert (absent.returncode, "(training.initial_weights) does not exist" in absent.stderr) == (2, True)
    again = run_script(*make, tmp_path / "start")
    assert (again.returncode, "already holds a model" in again.stderr) == (2, True)
    nothing = run_script("from_sd3.py", tmp_path, "--data", tiny_shards, "--out", tmp_path / "x")
    assert (nothing.returncode, "has no config.json" in nothing.stderr) == (2, True)
