"""What the benchmark computes from its measurements, and one tiny run of it."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import model_memory
import pytest
import torch
from launch import run_script
from line_chart import line_chart, ticks
from loading_speed import loading_table, measure_loading, resident_memory
from model_inputs import first_batches, near_square
from model_memory import peak_memory, tokens_within
from model_speed import WARM_UPS, compare, count_flops, in_turns, kernels_share
from PIL import Image
from plain_loop import loop, our_model, sd3
from plain_pyav import Threads, decode_all, decode_and_resize, frame_times
from torch import Tensor, nn
from train_speed import MEASURED_STALLS, PLAIN, STEPS_BETWEEN, THEIRS, stalls, training_table
from video_files import B_FRAMES, write_video
from work_time import Taken, cpu_seconds, preprocess_table, speed_row

from data.dataset import ClipDataset
from data.probe import probe
from video_dit.config import DataConfig, ModelConfig, load_config
from video_dit.models.context import Context
from video_dit.models.joint_blocks import JointTransformerBlock
from video_dit.ops.normalization import Conditioning
from video_dit.shapes import token_grid


def test_ratios_are_of_medians_with_the_spread_of_the_rounds() -> None:
    result = compare([1.0, 4.0, 3.0], [2.0, 2.0, 6.0])
    assert (result["ratio"], result["ratio_min"], result["ratio_max"]) == (1.5, 0.5, 2.0)


def test_tokens_within_a_budget_lie_between_the_measured_lengths() -> None:
    assert tokens_within(30, [100, 200, 400], [10, 20, 40]) == 300
    assert tokens_within(20, [100, 200, 400], [10, 20, 40]) == 200
    assert tokens_within(5, [100, 200, 400], [10, 20, 40]) == 100


def test_each_variant_goes_on_until_it_needs_what_the_plain_model_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model of memory in the place of measurements: bytes per token, less for each way to save them."""

    def peak(keys: dict[str, object], tokens: int, *_: object) -> int:
        return (
            tokens
            * 1000
            // ((2 if "feed_forward_chunk_size" in keys else 1) * (4 if "recompute_blocks" in keys else 1))
        )

    monkeypatch.setattr(model_memory, "step_in_own_process", peak)
    args = Namespace(
        memory_hidden_size=64, memory_depth=2, memory_tokens=[100, 200], chunk_size=16, text_tokens=7,
        memory_precision="fp32",
    )  # fmt: skip
    memory = model_memory.measure_memory(args)
    assert memory["ratio_to_plain"] == {"plain": 1, "chunked": 2, "recomputed": 4, "both": 8}
    assert model_memory.memory_chart(memory).size == (900, 560)
    assert "8.00x" in model_memory.memory_table(memory)


def test_flops_of_a_block_are_those_of_its_formula() -> None:
    """Per token 24 D^2 in the linear layers, per pair of tokens 4 D in the attention, and the modulations."""
    video_tokens, text_tokens, width = 16, 8, 32
    block = JointTransformerBlock(ModelConfig(hidden_size=width, num_heads=2))
    conditioning = Conditioning(torch.randn(1, 1, width))
    inputs = torch.randn(1, video_tokens, width), torch.randn(1, text_tokens, width)
    tokens = video_tokens + text_tokens
    expected = 24 * width**2 * tokens + 4 * width * tokens**2 + 2 * 2 * 6 * width**2
    with torch.no_grad():
        assert count_flops(lambda: block(*inputs, Context(conditioning, conditioning))) == expected


def test_the_backward_pass_counts_twice_for_products_and_two_and_a_half_times_for_attention() -> None:
    q, k, v = (torch.randn(1, 2, 16, 8, requires_grad=True) for _ in range(3))
    layer = nn.Linear(8, 8, bias=False)

    def step() -> None:
        nn.functional.scaled_dot_product_attention(layer(q), k, v).sum().backward()

    attention, product = 4 * 2 * 16 * 16 * 8, 2 * 2 * 16 * 8 * 8
    assert count_flops(step) == attention * 3.5 + product * 3


def test_the_share_of_the_kernels_is_that_of_products_and_attention() -> None:
    x, q = torch.randn(512, 512), torch.randn(1, 4, 256, 32)
    assert kernels_share(lambda: x @ x) > 0.5
    assert kernels_share(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) > 0.5
    assert kernels_share(lambda: nn.functional.gelu(x)) == 0


def test_the_sides_take_turns_and_find_no_gradients_of_the_round_before() -> None:
    layers = {"ours": nn.Linear(2, 2), "theirs": nn.Linear(2, 2)}
    order = []

    def work(name: str) -> None:
        assert all(layer.weight.grad is None for layer in layers.values())
        order.append(name)
        layers[name](torch.ones(1, 2)).sum().backward()

    works = {name: (lambda name=name: work(name)) for name in layers}
    seconds = in_turns(works, 3, torch.device("cpu"), layers.values())
    assert order == ["ours", "theirs"] * (WARM_UPS + 3)
    assert [len(taken) for taken in seconds.values()] == [3, 3]


def test_near_square_grids_have_the_number_of_tokens() -> None:
    assert near_square(1024) == (1, 32, 32)
    assert near_square(1536) == (1, 32, 48)
    assert near_square(7) == (1, 1, 7)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' account of a process")
def test_the_peak_of_memory_counts_what_was_freed_again() -> None:
    def work() -> None:
        torch.ones(64, 1024, 1024 // 4)

    assert 60e6 < peak_memory(work, torch.device("cpu")) < 90e6


def test_axes_have_at_most_ten_round_steps(tmp_path: Path) -> None:
    assert ticks(97) == (10, 100)
    assert ticks(1100) == (200, 1200)
    line_chart({"a": [(1, 2), (3, 40)]}, "x", "y", level=20).save(tmp_path / "chart.png")
    colours = {colour for _, colour in Image.open(tmp_path / "chart.png").getcolors(1 << 16)}
    assert (0x22, 0x22, 0x22) in colours


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' account of a process")
def test_resident_memory_counts_what_a_process_has_touched() -> None:
    before = resident_memory()["own"]
    held = torch.ones(64, 1024, 1024 // 4)
    assert 60e6 < resident_memory()["own"] - before < 90e6
    del held


def test_loading_is_measured_against_the_model(tiny_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text("[model]\npatch_size = [2, 8, 8]\nhidden_size = 32\ndepth = 1\nnum_heads = 2\n")
    args = Namespace(
        shards=tiny_shards, config=tmp_path / "tiny.toml", batch_size=8, epochs=3, num_workers=0, repeats=2
    )
    result = measure_loading(args, torch.device("cpu"))
    assert result["ratio"] == pytest.approx(sorted(result["loaded_per_second"])[1] / result["consumed_per_second"])
    assert len(result["memory"]) == 3
    assert "MiB after each epoch: " in loading_table(result)


def test_speeds_are_those_of_medians_and_ratios_those_of_the_first_to_the_others() -> None:
    taken = {"ours": [Taken(2, 3), Taken(2, 3), Taken(9, 3)], "theirs": [Taken(1, 6), Taken(1, 6), Taken(1, 6)]}
    row = speed_row("decode", "some work", {"videos": 3, "frames": 10}, taken)
    assert row["per_second"] == {"ours": {"videos": 1.5, "frames": 5}, "theirs": {"videos": 3, "frames": 10}}
    against = row["against"]["theirs"]
    assert (against["wall"]["ratio"], against["cpu"]["ratio"]) == (0.5, 2)
    assert (against["wall"]["ours_seconds"], against["wall"]["theirs_median"]) == ([2, 2, 9], 1)
    assert "0.50" in preprocess_table([row])


def test_processor_time_counts_processes_that_have_ended() -> None:
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert cpu_seconds() - before > 0.35  # the system counts in hundredths


@pytest.mark.parametrize("threads", ["NONE", "AUTO"])
def test_plain_decoding_resizes_all_frames_or_as_many_as_a_rate_says(tmp_path: Path, threads: Threads) -> None:
    path = write_video(tmp_path / "video.mp4", ticks=range(0, 1200, 50), options=B_FRAMES)  # 24 frames in one second
    info = probe(path, DataConfig().limits)
    assert decode_and_resize(path, info, (16, 16), threads) == decode_all(path, info) == len(frame_times(path, info))
    assert decode_and_resize(path, info, (16, 16), threads, fps=8) == 8
    assert decode_and_resize(path, info, (16, 16), threads, skip_frame="NONREF") < 24


@pytest.mark.slow
def test_preprocessing_is_measured_in_all_its_parts(shapes_videos: Path, tmp_path: Path) -> None:
    path = min(shapes_videos.rglob("*.mp4"))
    (tmp_path / path.name).symlink_to(path)
    sizes = ("--repeats", 1, "--height", 32, "--num-frames", 4, "--workers", 1)
    result = run_script("benchmark.py", "preprocess", tmp_path, "--out", tmp_path / "out", *sizes)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "out" / "preprocess.json").read_text())["rows"]
    works = ["one process", "decode, resize", "all of it", "probe", "scan", "shard", "running", "to be started"]
    assert [row["work"] for row in rows] == works
    assert all(speed > 0 for row in rows for speeds in row["per_second"].values() for speed in speeds.values())


@pytest.mark.slow
def test_a_tiny_run_writes_its_results(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    sizes = ("--hidden-size", 128, "--depth", 2, "--tokens", 64, "--text-tokens", 7, "--repeats", 2)
    scope = ("--parts", "speed", "--precisions", "fp32", "--modes", "eager")
    result = run_script("benchmark.py", "model", "--out", tmp_path, *sizes, *scope)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "model.json").read_text())
    assert [row["work"] for row in results["speed"]["rows"]] == ["training", "inference"]
    assert all(row["relative_error"] < 1e-5 for row in results["speed"]["rows"])
    assert all(0 < row["floor"] < 1 for row in results["speed"]["rows"])


def test_the_plain_loop_s_transformer_of_diffusers_works_on_the_same_tokens(tiny_shards: Path) -> None:
    """It has as many tokens and about as many weights; if it gave back what it gets, so would `predict`."""
    pytest.importorskip("diffusers")
    dataset = ClipDataset(tiny_shards, seed=0)
    keys = ["model.patch_size=[2, 4, 4]", "model.hidden_size=64", "model.depth=2", "model.num_heads=2"]
    config, encoded = load_config(None, keys, fixed=dataset.info.tables), dataset.info.encoded
    torch.manual_seed(0)
    batch = next(first_batches(dataset, 4))
    theirs, predict = sd3(config, encoded)
    ours, _ = our_model(config, encoded)
    tokens = []
    theirs.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
    )
    assert predict(batch.latents, torch.rand(4, 1), batch.text).shape == batch.latents.shape
    assert tokens == [token_grid(encoded.grid, config.model.patch_size).size]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    theirs.forward = lambda image, *_, **__: (image,)
    assert torch.equal(predict(batch.latents, torch.rand(4, 1), batch.text), batch.latents)


def test_the_plain_loop_learns(tiny_shards: Path) -> None:
    """Of one batch again and again: the loss goes down, so that what is measured is training."""
    dataset = ClipDataset(tiny_shards, seed=0)
    keys = ["model.hidden_size=32", "model.depth=1", "model.num_heads=2", "model.patch_size=[2, 8, 8]"]
    config = load_config(None, [*keys, "training.learning_rate=0.01"], fixed=dataset.info.tables)
    model, predict = our_model(config, dataset.info.encoded)
    outputs = []

    def remembered(*args: Any) -> Tensor:
        outputs.append(predict(*args))
        return outputs[-1]

    batch = next(first_batches(dataset, 4))
    seconds = [*loop(model, remembered, [batch] * 20, config, torch.device("cpu"))]
    assert len(seconds) == 20
    assert min(seconds) > 0
    assert outputs[-1].square().mean() > 2 * outputs[0].square().mean()


def test_a_checkpoint_costs_its_pause_and_what_it_slows_down() -> None:
    """Steps of 0.1 s; of every twelve the first has waited 0.05 s for a checkpoint, and takes 0.02 s longer."""

    def run(*_: str) -> list[dict[str, float]]:
        first, other = {"step_seconds": 0.12, "paused_seconds": 0.05}, {"step_seconds": 0.1, "paused_seconds": 0.0}
        return ([first] + [other] * (STEPS_BETWEEN - 1)) * (MEASURED_STALLS + 1)

    result = stalls(run)
    assert result["seconds"] == pytest.approx([0.07] * MEASURED_STALLS)
    assert "0.70 steps (0.70 to 0.70, 6 checkpoints)" in training_table({"checkpoints": result})


@pytest.mark.slow
def test_training_is_measured_in_turns(tiny_shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "tiny.toml").write_text("[model]\npatch_size = [2, 4, 4]\nhidden_size = 64\ndepth = 1\nnum_heads = 2\n")
    scope = ("--parts", "steps", "--ranks", 1, "--zero-stages", 2, "--steps", 2, "--repeats", 2)
    paths = ("--config", tmp_path / "tiny.toml", "--out", tmp_path / "out")
    result = run_script("benchmark.py", "train", tiny_shards, *paths, *scope, "--overrides", "training.batch_size=4")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "out" / "train.json").read_text())["steps"]
    assert [row["side"] for row in rows] == [THEIRS, PLAIN, "train.py, 1 rank, ZeRO 2"]
    assert all(row["seconds"] > 0 and row["peak_memory"] > 1e8 for row in rows)
    assert rows[0]["against"][THEIRS]["ratio"] == 1
