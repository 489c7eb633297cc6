"""Runs that train a part of a model: which weights change, that they go on, and what is made of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY
from launch import losses, run_script, train
from memory_of_steps import encoded_shape
from random_run import random_run
from safetensors.torch import load_file

from video_dit.config import Config, LoraConfig, TrainingConfig, with_changes
from video_dit.errors import UserError
from video_dit.models import build_model
from video_dit.models.weights import PEFT_PREFIX
from video_dit.run_folder import RunFolder
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.checkpoint import prepare_weights
from video_dit.training.export import export_run
from video_dit.training.piece_files import PieceReader

NUM_STEPS = 14
SETTINGS = (*TINY, "training.schedule=constant", "training.checkpoint_every=14", "training.learning_rate=0.01")
LORA = ("lora.rank=4", "lora.alpha=8", "lora.target_modules=['backbone.*']", "training.train_only=['proj_out.*']")

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def base(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with weights to start from."""
    return RunFolder(random_run(tmp_path_factory.mktemp("base"), tiny_config))


@pytest.fixture(scope="module")
def lora_run(base: RunFolder, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Without a stop, on one rank, with clips of its own at the end."""
    run = tmp_path_factory.mktemp("lora")
    start(
        run,
        tiny_shards,
        base,
        1,
        *LORA,
        "training.zero_stage=0",
        "training.sample_every=100",
        "training.num_samples=1",
        "sampling.num_steps=2",
    )
    return RunFolder(run)


def start(run: Path, shards: Path, base: RunFolder, num_ranks: int, *keys: str) -> list[float]:
    steps = () if any(key.startswith("training.steps=") for key in keys) else (f"training.steps={NUM_STEPS}",)
    initial = f"training.initial_weights={base.path}"
    train(num_ranks, "--data", shards, "--run", run, *SETTINGS, initial, *steps, *keys)
    return losses(run)


def averaged(run: RunFolder) -> dict[str, torch.Tensor]:
    """Of the last checkpoint, without what it lacks."""
    return load_file(run.checkpoint(NUM_STEPS) / "ema.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def falls(curve: list[float]) -> bool:
    return sum(curve[-4:]) < 0.8 * sum(curve[:4])


def test_adapters_are_trained_and_the_base_stays_bit_for_bit(base: RunFolder, lora_run: RunFolder) -> None:
    assert falls(losses(lora_run.path))
    before, frozen, ours = load_file(base.averaged_weights()), load_file(lora_run.frozen_weights), averaged(lora_run)
    whole = {"proj_out.weight", "proj_out.bias"}
    assert equal(frozen, {name: tensor for name, tensor in before.items() if name not in whole})
    assert whole < ours.keys()
    assert all(".lora_" in name for name in ours.keys() - whole)
    assert all(tensor.any() for name, tensor in ours.items() if name.endswith(".lora_B.weight"))
    assert not torch.equal(ours["proj_out.weight"], before["proj_out.weight"])
    kept = PieceReader(lora_run.checkpoint(NUM_STEPS)).keys
    assert set(kept) == {f"{key}/{name}" for key in ("weights", "exp_avg", "exp_avg_sq") for name in ours}
    assert list((lora_run.samples(NUM_STEPS)).glob("*.mp4"))


def test_adapters_go_on_bit_for_bit_and_at_any_zero_stage(
    base: RunFolder, lora_run: RunFolder, tiny_shards: Path, tmp_path: Path
) -> None:
    """The weights to start from may be gone by then."""
    whole = losses(lora_run.path)
    for steps in (5, 10):
        part = start(tmp_path, tiny_shards, base, 1, *LORA, "training.zero_stage=0", f"training.steps={steps}")
    assert part == whole[:10]
    gone = RunFolder(tmp_path / "gone")
    recomputed = start(tmp_path, tiny_shards, gone, 2, *LORA, "training.zero_stage=3")
    assert recomputed == pytest.approx(whole, abs=1e-4)
    for name, tensor in averaged(RunFolder(tmp_path)).items():
        torch.testing.assert_close(tensor, averaged(lora_run)[name], atol=1e-3, rtol=0)


def test_frozen_blocks_stay_and_the_rest_is_trained_at_any_zero_stage(
    base: RunFolder, tiny_shards: Path, tmp_path: Path
) -> None:
    """Recomputed too, with gradients that pass through them."""
    freeze = ("training.freeze=['backbone.*']", "model.recompute_blocks=2")
    curves = [
        start(tmp_path / str(stage), tiny_shards, base, num_ranks, *freeze, f"training.zero_stage={stage}")
        for num_ranks, stage in ((1, 2), (2, 3))
    ]
    assert falls(curves[0])
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)
    before = load_file(base.averaged_weights())
    for stage in (2, 3):
        run = RunFolder(tmp_path / str(stage))
        ours = averaged(run)
        frozen = {name: tensor for name, tensor in before.items() if name.startswith("backbone.")}
        assert equal(load_file(run.frozen_weights), frozen)
        assert ours.keys() == before.keys() - frozen.keys()
        assert not any(torch.equal(ours[name], before[name]) for name in ours)
        export_run(run, tmp_path / f"model-{stage}", "raw")
        exported = load_file(tmp_path / f"model-{stage}/model.safetensors")
        assert exported.keys() == before.keys()
        assert all(torch.equal(exported[name], tensor) for name, tensor in frozen.items())


def test_adapters_are_exported_merged_or_beside_the_weights(lora_run: RunFolder, tmp_path: Path) -> None:
    merged, separate = RunFolder(tmp_path / "merged"), RunFolder(tmp_path / "separate")
    export_run(lora_run, merged.path)
    export_run(lora_run, separate.path, lora="separate")
    ours, frozen = averaged(lora_run), load_file(lora_run.frozen_weights)
    adapters = {name: tensor for name, tensor in ours.items() if ".lora_" in name}
    others = {name: tensor for name, tensor in ours.items() if name not in adapters}
    assert equal(load_file(separate.exported_weights), {**frozen, **others})
    assert equal(load_file(separate.exported_adapters), {PEFT_PREFIX + name: x for name, x in adapters.items()})
    assert "| adapters | LoRA of rank 4" in (separate.path / "README.md").read_text()

    clips = [VideoPipeline.from_run(run.path, device="cpu")("a red circle") for run in (lora_run, merged, separate)]
    assert torch.equal(clips[0], clips[1])
    assert torch.equal(clips[0], clips[2])
    without = VideoPipeline.from_run(separate.path, device="cpu", weights="model.safetensors")("a red circle")
    assert not torch.equal(clips[0], without)

    export_run(separate, tmp_path / "again", separate.exported_adapters)
    assert equal(load_file(tmp_path / "again/model.safetensors"), load_file(merged.exported_weights))
    export_run(lora_run, tmp_path / "half", precision="bf16", lora="separate")
    half = load_file(tmp_path / "half/adapter_model.safetensors")
    assert equal(half, {PEFT_PREFIX + name: x.bfloat16() for name, x in adapters.items()})
    with pytest.raises(UserError, match=r"--lora separate is for runs with adapters"):
        export_run(merged, tmp_path / "x", merged.exported_weights, lora="separate")


def test_the_programs_pass_adapters_on(lora_run: RunFolder, tmp_path: Path) -> None:
    exported = run_script("export.py", lora_run.path, "--out", tmp_path / "model", "--lora", "separate")
    assert exported.returncode == 0, exported.stderr
    made = run_script("generate.py", "--run", tmp_path / "model", "--out", tmp_path / "a", "--steps", 2, "a red circle")
    assert made.returncode == 0, made.stderr
    record = tmp_path / "a/a-red-circle-seed0.json"
    again = run_script("generate.py", "--out", tmp_path / "b", "--again", record)
    assert again.returncode == 0, again.stderr
    clips = [(tmp_path / folder / "a-red-circle-seed0.mp4").read_bytes() for folder in "ab"]
    assert clips[0] == clips[1]
    assert set(json.loads(record.read_text())["sha256"]) == {"weights", "frozen_weights", "config"}


def test_a_run_starts_from_adapters_beside_weights(lora_run: RunFolder, tmp_path: Path) -> None:
    """As from the same merged, and from the run itself."""
    export_run(lora_run, tmp_path / "separate", lora="separate")
    export_run(lora_run, tmp_path / "merged")
    merged = load_file(tmp_path / "merged/model.safetensors")
    config, grid = lora_run.load_config(), lora_run.load_data().grid
    for source in (tmp_path / "separate", tmp_path / "merged/model.safetensors", lora_run.path):
        training = {**config.training.model_dump(), "initial_weights": source, "train_only": (), "freeze": ("*.bias",)}
        plain = config.model_copy(update={"lora": LoraConfig(), "training": TrainingConfig(**training)})
        model = build_model(plain, encoded_shape(plain)._replace(grid=grid))
        prepare_weights(model, plain, RunFolder(tmp_path / "run"))
        assert equal(model.state_dict(), merged), source


def test_what_is_not_trained_stays_so_and_cannot_go_missing(lora_run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(lora_run.path, tmp_path / "copy"))
    config, data = copy.load_config(), copy.load_data()
    model = build_model(config, encoded_shape(config)._replace(grid=data.grid))
    other = with_changes(config, "training", {"train_only": ("proj_out.bias",)})
    with pytest.raises(UserError, match=r"was started with training.train_only = \('proj_out.\*',\), and this is"):
        copy.open(other, data, [])
    with pytest.raises(UserError, match=r"was started with lora.rank = 4, and this is 2"):
        copy.open(with_changes(config, "lora", {"rank": 2}), data, [])
    copy.frozen_weights.unlink()
    with pytest.raises(UserError, match=r"frozen.safetensors is gone, with the weights that are not trained"):
        prepare_weights(model, config, copy)
