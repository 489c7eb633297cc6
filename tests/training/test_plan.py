"""What a plan says, against the allocator of real steps and against sums by hand."""

import json

import pytest
from conftest import REPOSITORY, TINY
from launch import run_ranks
from memory_of_steps import encoded_shape

from video_dit.config import load_config, with_changes
from video_dit.contracts import EncodedShape
from video_dit.errors import UserError
from video_dit.models import build_model
from video_dit.shapes import Grid
from video_dit.training.activations import trace_step
from video_dit.training.devices import GIB, Devices
from video_dit.training.plan import Plan, changes_that_fit, plan_training

SIZES = (
    *TINY, "data.num_frames=8", "data.height=32", "data.width=32", "model.hidden_size=128", "model.depth=2",
    "model.patch_size=[2,4,4]", "training.batch_size=4", "deepspeed.zero_optimization.reduce_bucket_size=100000",
    "training.zero_stage=0",
)  # fmt: skip
LORA = ("lora.rank=4", "training.initial_weights=model.safetensors")
ALONE = {
    "plain": (),
    "bf16, recomputed": ("training.precision=bf16", "model.recompute_blocks=2"),
    "ZeRO 1, chunks": ("training.zero_stage=1", "model.feed_forward_chunk_size=64"),
    "ZeRO 2, micro-batches": ("training.zero_stage=2", "training.micro_batch_size=1", "model.name=cross_dit"),
    "ZeRO 0, micro-batches": ("training.micro_batch_size=2", "model.single_stream_blocks=1"),
    "ZeRO 2, factorised": ("training.zero_stage=2", "model.name=dit", "model.attention_pattern=factorised"),
    "ZeRO 2, window, muon": (
        "training.zero_stage=2", "model.attention_pattern=window", "training.optimizer=muon",
        "training.gradient_clipping=0",
    ),
    "ZeRO 3": ("training.zero_stage=3", "model.name=u_vit", "model.recompute_blocks=1"),
    "ZeRO 0, 8 bits": ("training.optimizer=adamw_8bit", "model.recompute_blocks=2"),
    "ZeRO 2, 8 bits": ("training.optimizer=adamw_8bit", "training.zero_stage=2", "model.recompute_blocks=2"),
    "ZeRO 0, adapters": LORA,
    "ZeRO 2, adapters, recomputed": (*LORA, "training.zero_stage=2", "model.recompute_blocks=2"),
}  # fmt: skip
TABLE = "deepspeed.zero_optimization.offload_optimizer.device=cpu"
TOGETHER = {
    "ZeRO 1, bf16": ("training.zero_stage=1", "training.precision=bf16"),
    "ZeRO 2": ("training.zero_stage=2",),
    "ZeRO 3, wide": ("training.zero_stage=3", "model.hidden_size=192"),
    "ZeRO 3, bf16, recomputed": ("training.zero_stage=3", "training.precision=bf16", "model.recompute_blocks=2"),
    "ZeRO 2, a clip shared": ("training.zero_stage=2", "training.sequence_parallel=2"),
    "ZeRO 1, adapters": (*LORA, "training.zero_stage=1"),
    "ZeRO 3, frozen": ("training.zero_stage=3", "training.freeze=['backbone.blocks.0.*', 'text_embedder.*']"),
}


def measured(num_ranks: int, runs: dict[str, tuple[str, ...]]) -> list[int]:
    keys = [json.dumps([*SIZES, *of_run]) for of_run in runs.values()]
    said = run_ranks(num_ranks, REPOSITORY / "tests/memory_of_steps.py", *keys)
    return [int(line) for line in said.splitlines() if line.isdigit()]


def planned(num_ranks: int, *keys: str) -> Plan:
    config = load_config(None, (*SIZES, *keys))
    encoded = encoded_shape(config)
    return plan_training(config, encoded, [encoded.grid], Devices(num_ranks, "CPU", 1000 * GIB), 0.4)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("num_ranks", "runs"), [(1, ALONE), (2, TOGETHER)])
def test_the_memory_is_what_the_allocator_counts(num_ranks: int, runs: dict[str, tuple[str, ...]]) -> None:
    ratios = {
        name: planned(num_ranks, *keys).memory.of_step / there
        for (name, keys), there in zip(runs.items(), measured(num_ranks, runs), strict=True)
    }
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values()), ratios


def test_zero_shards_what_it_says() -> None:
    """By hand: 4 bytes of weights, 4 of averages, 8 of moments, and 4 of master weights where there are some."""
    plain, one, two, three = (planned(4, f"training.zero_stage={stage}").memory for stage in range(4))
    whole, shard = plain.weights, -(-plain.weights // 16) * 4
    assert plain[:4] == (whole, 0, 2 * whole, whole)
    assert one[:4] == two[:4] == (whole, shard, 2 * shard, whole)
    assert three[:4] == (shard, shard, 2 * shard, shard)
    offload = planned(4, "training.zero_stage=2", "training.offload_optimizer=cpu").memory
    assert offload[:4] == (whole, 0, 0, whole)
    assert offload.host == 4 * shard
    assert planned(4, "training.zero_stage=2", TABLE).memory == offload
    both = planned(
        4, "training.zero_stage=3", "training.offload_optimizer=cpu", "training.offload_parameters=cpu"
    ).memory
    assert both[:4] == (0, 0, 0, 0)
    assert both.host == 6 * shard


def test_a_checkpoint_is_there_twice_and_samples_want_a_whole_model() -> None:
    """By hand: 4 bytes of weights, 8 of moments and 4 for each kind of average, once for all ranks."""
    alone, four = (planned(count, "training.zero_stage=3", "training.ema_widths=[0.1]").memory for count in (1, 4))
    whole, shard = alone.weights, four.weights
    assert alone.checkpoint == (4 + 8 + 2 * 4) * whole // 4
    assert four.checkpoint == (4 + 8) * shard // 4 + whole // 2
    assert four.total == four.of_step + four.checkpoint
    config = load_config(None, (*SIZES, "training.zero_stage=3", "training.sample_every=1"))
    encoded = encoded_shape(config)
    on_gpus = plan_training(config, encoded, [encoded.grid], Devices(4, "X", GIB), 0.4).memory
    assert (on_gpus.checkpoint, on_gpus.host) == (0, 3 * shard + whole // 4)
    assert on_gpus.phases["sampling"] == whole
    sixteen = plan_training(
        with_changes(config, "training", {"batch_size": 16}), encoded, [encoded.grid], Devices(16, "X", GIB), 0.4
    )
    assert sixteen.memory.host == whole  # which each rank has before it is spread
    assert four.phases["sampling"] == 0


def test_weights_that_are_not_trained_are_weights_alone() -> None:
    """By hand: adapters of rank 4 beside the 14 layers of width 128 have 4 x (128 + 128) numbers each."""
    keys = (*LORA, "training.ema_widths=[0.1]")
    plan = planned(4, *keys)
    trained = 14 * 4 * 256
    assert plan.num_trained == trained
    assert plan.num_parameters == planned(4).num_parameters + trained
    whole, shard = 4 * plan.num_parameters, trained
    assert plan.memory[:4] == (whole, 0, 8 * trained, 8 * trained)
    assert planned(4, *keys, "training.zero_stage=2").memory[:4] == (whole, shard, 2 * shard, 8 * trained)
    assert planned(4, *keys, "training.zero_stage=3").memory[:4] == (-(-whole // 16) * 4, shard, 2 * shard, 2 * shard)


def test_patches_may_be_longer_than_the_clips_of_another_config() -> None:
    """The default clips have 8 frames."""
    assert planned(1, "data.num_frames=16", "model.patch_size=[16,4,4]").memory.total > 0


def test_patches_need_not_divide_the_clip_of_data_where_no_clip_is_like_it() -> None:
    encoded = encoded_shape(load_config(None, SIZES))
    config = load_config(None, (*SIZES, "data.num_frames=7", "buckets.num_frames=[4, 8]"))
    plan = plan_training(config, encoded, [encoded.grid], Devices(1, "CPU", GIB), 0.4)
    assert plan.memory == planned(1).memory._replace(host=plan.memory.host)


def test_parameters_are_those_of_the_model() -> None:
    config = load_config(None, SIZES)
    model = build_model(config, encoded_shape(config))
    assert planned(1).num_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_rounded_weights_that_are_kept_are_as_many_as_there_are_blocks() -> None:
    """Where all blocks compute again, and weights are most of what there is: two bytes of each but the last's."""
    keys = (*SIZES, "data.num_frames=2", "training.precision=bf16", "model.depth=4", "model.recompute_blocks=4")
    config = load_config(None, keys)
    encoded = encoded_shape(config)
    kept, dropped = (trace_step(config, encoded, encoded.grid, 1, 0, keep) for keep in (True, False))
    of_block = sum(parameter.numel() for parameter in build_model(config, encoded).backbone.blocks[0].parameters())
    assert 2 * 2 * of_block < kept - dropped < 4 * 2 * of_block


def test_the_config_for_one_gpu_fits_one() -> None:
    """With the shapes of what it names: Wan's latents, and the text of SD3's CLIPs (77 tokens) and T5 (256)."""
    config = load_config(REPOSITORY / "configs/pretrained.toml", ())
    encoded = EncodedShape(16, Grid(13, 32, 56), 77 + 256, 4096, 768 + 1280, ())
    devices = Devices.parse("1xA100-40GB")
    assert devices.fits(plan_training(config, encoded, [encoded.grid], devices, 0.4).memory.total)


def test_the_worst_of_the_buckets_is_planned_for() -> None:
    config = load_config(None, SIZES)
    buckets = [Grid(2, 16, 16), Grid(8, 32, 32), Grid(8, 16, 16)]
    plan = plan_training(config, encoded_shape(config), buckets, Devices(1, "CPU", GIB), 0.4)
    assert plan.latents == Grid(8, 32, 32)
    with pytest.raises(UserError, match=r"height is 30.*use 28 or 32"):
        plan_training(config, encoded_shape(config), [Grid(8, 30, 32)], Devices(1, "CPU", GIB), 0.4)


def test_the_time_is_operations_over_what_the_devices_do() -> None:
    config = load_config(None, SIZES)
    encoded = encoded_shape(config)
    plan = plan_training(config, encoded, [encoded.grid], Devices.parse("2xH100-80GB"), 0.5)
    assert plan.step_seconds == pytest.approx(2 * plan.flops.model / (0.5 * 67e12))
    assert plan_training(config, encoded, [encoded.grid], Devices.parse("2xX1-8GB"), 0.5).step_seconds is None


def test_devices_by_name() -> None:
    assert Devices.parse("64xH100-80GB") == (64, "H100", 80 * GIB, None)
    assert Devices.parse("1xA100-40GB").peak_flops("bf16") == 312e12
    assert Devices(1, "NVIDIA GeForce RTX 4090", GIB).peak_flops("bf16") == 165e12
    assert Devices(8, "NVIDIA H100 80GB HBM3", GIB).peak_flops("fp32") == 67e12
    assert Devices(1, "NVIDIA L40S", GIB).peak_flops("bf16") == 362e12
    assert Devices.parse("8xMI300-192GB").peak_flops("bf16") is None
    assert Devices(1, "NVIDIA A100 80GB PCIe", GIB).peak_flops("fp32") == 19.5e12
    for slower in ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU"):
        assert Devices(1, slower, GIB).peak_flops("bf16") is None
    for wrong in ("H100", "0xH100-80GB", "8xH100", "8xH100-80", "xH100-80GB"):
        with pytest.raises(UserError, match="write COUNTxNAME-SIZEGB"):
            Devices.parse(wrong)


def test_each_change_makes_it_fit_and_none_is_made_up() -> None:
    config = load_config(None, SIZES)
    encoded = encoded_shape(config)
    enough = planned(1).memory.of_step

    def changes(memory: float) -> list[str]:
        devices = Devices(1, "X", int(memory))
        plan = plan_training(config, encoded, [encoded.grid], devices, 0.4)
        assert not devices.fits(plan.memory.total)
        found = list(changes_that_fit(plan, encoded, [encoded.grid], devices, 0.4))
        assert all(change.plan.memory.total <= devices.usable for change in found)
        return [change.what for change in found]

    barely = changes(enough)
    assert "training.micro_batch_size=2" in barely
    assert "model.recompute_blocks=1" in barely
    assert "2 devices" in barely
    assert changes(1_000_000) == []
