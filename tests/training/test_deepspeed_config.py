import pytest

from video_dit.config import load_config
from video_dit.errors import UserError
from video_dit.training.deepspeed_config import check_device, deepspeed_config, merge, micro_batch_size


@pytest.mark.parametrize(
    ("batch_size", "micro", "num_ranks", "expected"), [(32, None, 1, 32), (32, None, 4, 8), (32, 4, 2, 4), (6, 1, 3, 1)]
)
def test_micro_batches_fill_the_batch(batch_size: int, micro: int | None, num_ranks: int, expected: int) -> None:
    overrides = [f"training.batch_size={batch_size}"] + [f"training.micro_batch_size={micro}"] * (micro is not None)
    assert micro_batch_size(load_config(None, overrides), num_ranks) == expected


@pytest.mark.parametrize(("batch_size", "micro", "num_ranks"), [(5, None, 2), (8, 3, 1), (2, None, 4)])
def test_a_batch_that_cannot_be_shared_is_refused(batch_size: int, micro: int | None, num_ranks: int) -> None:
    overrides = [f"training.batch_size={batch_size}"] + [f"training.micro_batch_size={micro}"] * (micro is not None)
    with pytest.raises(UserError, match=rf"training.batch_size is {batch_size}"):
        micro_batch_size(load_config(None, overrides), num_ranks)


def test_the_deepspeed_table_wins_key_by_key() -> None:
    others = ("gradient_predivide_factor=2", "wall_clock_breakdown=true", "data_types.grad_accum_dtype='fp32'")
    keys = ("zero_optimization.overlap_comm=true", "gradient_clipping=0.5", *others)
    settings = deepspeed_config(load_config(None, [f"deepspeed.{key}" for key in keys]), num_ranks=2)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert settings["gradient_clipping"] == 0.5
    assert settings["train_batch_size"] == 2 * settings["train_micro_batch_size_per_gpu"]


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["deepspeed.train_batch_size=64"], r"deepspeed.train_batch_size: set training.batch_size"),
        (["deepspeed.scheduler={type='WarmupLR'}"], r"deepspeed.scheduler: set training.schedule, .* instead"),
        (["deepspeed.amp.enabled=true"], r"deepspeed.amp: set training.precision instead"),
        (["deepspeed.bf16.enabled=true"], r"deepspeed.bf16.enabled: set training.precision='bf16' instead"),
        (["deepspeed.fp16.enabled=true"], r"deepspeed.fp16.enabled: set training.precision='fp16' instead"),
        (["deepspeed.zero_optimizatoin.stage=3"], r"is not known: is deepspeed.zero_optimization meant"),
        (["deepspeed.gradient_clipping='much'"], r"deepspeed.gradient_clipping is 'much', and must be a number"),
        (["deepspeed.zero_optimization.offload_param='cpu'"], r"offload_param is 'cpu', and must be a table such as"),
        (["deepspeed.zero_optimization=3"], r"deepspeed.zero_optimization is 3, and must be a table"),
        (["deepspeed.zero_optimization.compute_grad_norm=false"], r"compute_grad_norm is false, and must be true"),
        (["training.optimizer=muon", "training.zero_stage=3"], r"training.zero_stage 0, 1 or 2, not 3"),
        (
            ["training.optimizer=muon", "training.gradient_clipping=0", "deepspeed.gradient_clipping=0.5"],
            r"deepspeed.gradient_clipping is 0.5, and must be 0",
        ),
        (["training.optimizer=muon"], r"training.gradient_clipping is 1, and must be 0"),
        (["training.offload_optimizer=cpu", "training.zero_stage=0"], r"is 'cpu', which needs .* 1, 2 or 3, not 0"),
        (["deepspeed.zero_optimization={stage=0, offload_optimizer={device='cpu'}}"], r"offload_optimizer is 'cpu'"),
        (["deepspeed.zero_optimization={stage=3, offload_optimizer={device='nvme'}}"], r"offloads to 'nvme'.*'cpu'"),
        (["training.offload_parameters=cpu"], r"offload_parameters is 'cpu', which needs training.zero_stage 3, not 2"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        deepspeed_config(load_config(None, overrides), num_ranks=1)


def test_offload_is_deepspeed_s_and_compiles_nothing() -> None:
    keys = ["training.zero_stage=3", "training.offload_optimizer=cpu", "training.offload_parameters=cpu"]
    settings = deepspeed_config(load_config(None, keys), num_ranks=1)
    assert settings["zero_optimization"] == {
        "stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}
    }  # fmt: skip
    assert settings["zero_force_ds_cpu_optimizer"] is False


def test_precision_is_autocast() -> None:
    told = {
        precision: deepspeed_config(load_config(None, [f"training.precision={precision}"]), 1)["torch_autocast"]
        for precision in ("fp32", "bf16", "fp16")
    }
    assert not told["fp32"]["enabled"]
    assert told["bf16"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert told["fp16"] == {"enabled": True, "dtype": "float16", "lower_precision_safe_modules": []}


def test_fp16_needs_a_gpu() -> None:
    training = load_config(None, ["training.precision=fp16"]).training
    check_device(training, has_gpu=True)
    with pytest.raises(UserError, match=r"precision is 'fp16', which needs a GPU, .*'bf16' or 'fp32'"):
        check_device(training, has_gpu=False)
