"""Whole runs: what must not change their losses, their weights and their order."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import TINY
from kept_videos import keep_videos
from launch import losses, metrics, train
from numpy.typing import NDArray
from preprocessed import preprocess_here
from safetensors.torch import load_file
from two_buckets import SMALL, two_buckets

from video_dit.config import load_config
from video_dit.run_folder import RunFolder

NUM_STEPS = 20


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:06d}/ema.safetensors")


def norms(run: Path) -> list[float]:
    return [row["gradient_norm"] for row in metrics(run)]


def start(run: Path, shards: Path, num_ranks: int = 1, *overrides: str) -> list[float]:
    train(num_ranks, "--data", shards, "--run", run, *TINY, f"training.steps={NUM_STEPS}", *overrides)
    return losses(run)


@pytest.fixture(scope="module")
def reference(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, ZeRO 0."""
    run = tmp_path_factory.mktemp("reference")
    start(run, tiny_shards, 1, "training.zero_stage=0")
    return run


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("num_ranks", "zero_stage", "sharing"),
    [(2, 0, 1), (1, 2, 1), (2, 2, 1), (2, 1, 1), (2, 3, 1), (2, 0, 2), (4, 2, 2), (2, 3, 2)],
)
def test_losses_and_weights_do_not_depend_on_ranks_or_zero_stage(
    reference: Path, tiny_shards: Path, tmp_path: Path, num_ranks: int, zero_stage: int, sharing: int
) -> None:
    """Nor on how many ranks share a clip; and DeepSpeed's norm of the gradient is PyTorch's."""
    settings = (f"training.zero_stage={zero_stage}", f"training.sequence_parallel={sharing}", "training.log_every=7")
    ours = start(tmp_path, tiny_shards, num_ranks, *settings)
    assert len(ours) == NUM_STEPS
    assert ours == pytest.approx(losses(reference), abs=1e-4)
    assert norms(tmp_path) == pytest.approx(norms(reference), rel=1e-3)
    for name, theirs in weights(reference, NUM_STEPS).items():
        torch.testing.assert_close(weights(tmp_path, NUM_STEPS)[name], theirs, atol=1e-3, rtol=0)


BACKBONES = {
    "u_vit": ("model.name=u_vit",),
    "dit, factorised": ("model.name=dit", "model.attention_pattern=factorised"),
    "one stream, window": ("model.single_stream_blocks=1", "model.attention_pattern=window"),
    "cross_dit, recomputed": ("model.name=cross_dit", "model.recompute_blocks=2", "model.feed_forward_chunk_size=3"),
}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("keys", BACKBONES.values(), ids=BACKBONES)
def test_every_kind_of_backbone_trains_under_zero_3(keys: tuple[str, ...], tiny_shards: Path, tmp_path: Path) -> None:
    """ZeRO-3 rebuilds the arguments of every module to gather its weights."""
    few = "training.steps=5"
    alone = start(tmp_path / "alone", tiny_shards, 1, "training.zero_stage=0", *keys, few)
    sharded = start(tmp_path / "sharded", tiny_shards, 2, "training.zero_stage=3", *keys, few)
    assert len(alone) == 5
    assert sharded == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
def test_micro_batches_do_not_change_the_losses(reference: Path, tiny_shards: Path, tmp_path: Path) -> None:
    ours = start(tmp_path, tiny_shards, 2, "training.micro_batch_size=2", "training.zero_stage=2")
    assert ours == pytest.approx(losses(reference), abs=1e-4)


@pytest.fixture(scope="module")
def held_out_shards(shapes_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another split of the same manifest."""
    folder = tmp_path_factory.mktemp("held_out")
    config = load_config(None, [*TINY, "data.split=held_out"])
    preprocess_here(shapes_videos, folder, config)
    return folder


@pytest.mark.slow
@pytest.mark.distributed
def test_the_loss_on_held_out_clips_does_not_depend_on_ranks(
    tiny_shards: Path, held_out_shards: Path, tmp_path: Path
) -> None:
    """Nor does measuring it change the run; five clips do not divide by two ranks."""
    settings = ("training.steps=4", "training.validate_every=2", "training.validation_clips=5", "training.log_every=3")
    plain = start(tmp_path / "plain", tiny_shards, 1, *settings)
    rows = {}
    for num_ranks, zero_stage in ((1, 0), (2, 3)):
        run = tmp_path / str(num_ranks)
        ours = start(
            run, tiny_shards, num_ranks, *settings, f"training.zero_stage={zero_stage}", "--validation", held_out_shards
        )
        assert ours == pytest.approx(plain, abs=1e-4)
        rows[num_ranks] = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[1]] == [2, 4]
    for one, two in zip(rows[1], rows[2], strict=True):
        assert two["loss_by_t"] == pytest.approx(one["loss_by_t"], abs=1e-4)
        assert one["loss"] == pytest.approx(sum(one["loss_by_t"]) / 9)
        assert two["data_error"] == pytest.approx(one["data_error"], abs=1e-4)
    steps = metrics(tmp_path / "1")
    assert len(steps[-1]["loss_by_t"]) == 9
    logged_at = [row["step"] for row in steps if "step_seconds" in row]
    assert logged_at == [2, 3, 4]  # also before a validation


@pytest.mark.slow
def test_training_learns(tiny_shards: Path, tmp_path: Path) -> None:
    settings = ("training.steps=80", "training.learning_rate=0.003", "training.precision=bf16", "diffusion.loss=data")
    train(1, "--data", tiny_shards, "--run", tmp_path, *TINY, *settings)
    curve = losses(tmp_path)
    assert sum(curve[-20:]) < 0.7 * sum(curve[:20])


@pytest.mark.slow
@pytest.mark.distributed
def test_clips_of_two_shapes_train_the_same_on_two_ranks_and_in_parts(tiny_shards: Path, tmp_path: Path) -> None:
    """With what depends on the size: learned places, and a shift that grows with the tokens."""
    shards = two_buckets(tiny_shards, tmp_path / "shards")
    settings = (
        "model.rotary=false", "model.spatial_position=learned", "model.temporal_position=learned",
        "diffusion.shift_tokens=8", "diffusion.stratified=true", "training.schedule=constant", "training.log_every=3",
        "training.checkpoint_every=5", "--validation", str(shards), "training.validate_every=10",
    )  # fmt: skip
    whole = start(tmp_path / "whole", shards, 1, *settings)
    assert start(tmp_path / "two", shards, 2, *settings, "training.micro_batch_size=2") == pytest.approx(
        whole, abs=1e-4
    )
    of_clips = RunFolder(tmp_path / "whole").load_data().shapes
    assert sorted(of_clips) == [(SMALL, 20), (load_config(None, TINY).data.grid, 40)]
    for steps in (5, 8):
        start(tmp_path / "parts", shards, 1, *settings, f"training.steps={steps}")
    assert start(tmp_path / "parts", shards, 1, *settings) == whole
    for name, theirs in weights(tmp_path / "whole", NUM_STEPS).items():
        assert torch.equal(weights(tmp_path / "parts", NUM_STEPS)[name], theirs), name
    one, two = ((tmp_path / run / "validation.jsonl").read_text().splitlines() for run in ("whole", "two"))
    assert len(one) == 2
    for ours, theirs in zip(one, two, strict=True):
        assert json.loads(ours)["loss_by_t"] == pytest.approx(json.loads(theirs)["loss_by_t"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
def test_training_on_videos_is_training_on_their_latents(
    tiny_shards: Path, shapes_videos: Path, tmp_path: Path
) -> None:
    """Bit for bit, with readers in processes of their own; and broken videos are replaced alike on two ranks."""
    shutil.copytree(shapes_videos, tmp_path / "copies")
    videos = keep_videos(tiny_shards, tmp_path / "copies", tmp_path / "videos")
    settings, reader = ("training.steps=5", "training.checkpoint_every=3"), "training.num_workers=1"
    held_out = ("--validation", str(videos), "training.validate_every=5", "training.validation_clips=5")
    latents = start(tmp_path / "latents", tiny_shards, 1, *settings)
    assert start(tmp_path / "kept", videos, 1, *settings, *held_out, reader) == latents
    for path in sorted((tmp_path / "copies").rglob("*.mp4"))[::3]:
        path.write_bytes(b"broken")
    one = start(tmp_path / "one", videos, 1, *settings)
    two = start(tmp_path / "two", videos, 2, *settings, reader)
    assert two == pytest.approx(one, abs=1e-4)
    assert one != latents


@pytest.mark.slow
@pytest.mark.distributed
def test_sample_clips_are_those_of_one_rank(tiny_shards: Path, tmp_path: Path) -> None:
    """Also while ranks share each clip of training, which those of samples are not."""
    keys = ("training.zero_stage=0", f"training.sample_every={NUM_STEPS}", "training.learning_rate=1e-2")
    start(tmp_path / "alone", tiny_shards, 1, *keys)
    start(tmp_path / "shared", tiny_shards, 2, *keys, "training.sequence_parallel=2")
    alone, shared = (pixels(min((tmp_path / run).glob("samples/*/*.mp4"))) for run in ("alone", "shared"))
    assert alone.std() > 10
    assert np.abs(alone - shared).mean() < 1


def pixels(clip: Path) -> NDArray:
    """float [F, H, W, 3]."""
    with av.open(str(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)
