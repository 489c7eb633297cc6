"""What DeepSpeed is asked to do in other ways, which must not change the losses of a run, resumed or not."""

import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY
from launch import ends, metrics, run_ranks, start_ranks, train

SETTINGS = (*TINY, "model.depth=1")
PLAIN = ("training.zero_stage=0",)
OFFLOADED = {
    "optimizer, ZeRO 1": ("training.zero_stage=1", "training.offload_optimizer=cpu"),
    "optimizer, ZeRO 2, accumulating": (
        "training.zero_stage=2", "training.offload_optimizer=cpu", "training.micro_batch_size=2",
    ),
    "optimizer, ZeRO 3": ("training.zero_stage=3", "training.offload_optimizer=cpu"),
    "parameters": ("training.zero_stage=3", "training.offload_parameters=cpu"),
    "both, accumulating, recomputing": (
        "training.zero_stage=3", "training.offload_parameters=cpu", "training.offload_optimizer=cpu",
        "training.micro_batch_size=2", "model.recompute_blocks=1",
    ),
    "through [deepspeed]": (
        "deepspeed.zero_optimization={stage=2, offload_optimizer={device='cpu'}}",
        "deepspeed.optimizer={type='AdamW', params={lr=1e-3, betas=[0.9, 0.95], weight_decay=0.0, torch_adam=true}}",
    ),
}  # fmt: skip
COMPILED = {
    "ZeRO 2": ("training.zero_stage=2", "training.compile=true"),
    "ZeRO 3, recomputing": ("training.zero_stage=3", "training.compile=true", "model.recompute_blocks=1"),
}


def check_losses(num_ranks: int, runs: dict[str, tuple[str, ...]], folder: Path) -> None:
    """Equal to those of the plain run on as many ranks, which learns, to 1e-4."""
    keys = [json.dumps([*SETTINGS, *of_run]) for of_run in (PLAIN, *runs.values())]
    said = run_ranks(num_ranks, REPOSITORY / "tests/losses_of_steps.py", folder, *keys)
    plain, *others = (json.loads(line) for line in said.splitlines() if line.startswith("["))
    assert len(plain) == 6
    assert plain == sorted(plain, reverse=True)
    assert dict(zip(runs, others, strict=True)) == {name: pytest.approx(plain, abs=1e-4) for name in runs}


@pytest.mark.slow
@pytest.mark.distributed
def test_offload_and_accumulation_change_nothing(tmp_path: Path) -> None:
    check_losses(2, OFFLOADED, tmp_path)


@pytest.mark.slow
def test_offload_serves_one_rank_alone(tmp_path: Path) -> None:
    check_losses(1, {"both": OFFLOADED["both, accumulating, recomputing"]}, tmp_path)


@pytest.mark.slow
def test_compiled_blocks_change_nothing(tmp_path: Path) -> None:
    check_losses(1, COMPILED, tmp_path)


@pytest.mark.slow
def test_the_learning_rate_that_is_told_is_the_optimizer_s(tiny_shards: Path, tmp_path: Path) -> None:
    optimizer = "deepspeed.optimizer={type='AdamW', params={lr=3e-4, torch_adam=true}}"
    keys = ("training.steps=1", "training.schedule=constant", "training.warmup_steps=0", optimizer)
    train(1, "--data", tiny_shards, "--run", tmp_path, *TINY, *keys)
    assert metrics(tmp_path)[-1]["learning_rate"] == 3e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("zero_optimization.overlap_com=true", "has zero_optimization: ValidationError: .* overlap_com Extra inputs"),
        ("optimizer={type='Adamm'}", "has optimizer: AssertionError: Adamm is not a supported"),
        ("optimizer={type='AdamW', params={rate=1, torch_adam=true}}", "has optimizer: TypeError: .*argument 'rate'"),
    ],
)
def test_what_deepspeed_does_not_take_is_told(tiny_shards: Path, tmp_path: Path, said: str, message: str) -> None:
    arguments = ("--data", tiny_shards, "--run", tmp_path, *TINY, f"deepspeed.{said}")
    ((code, output),) = ends(start_ranks(1, *arguments))
    assert code == 2
    assert "Traceback" not in output
    assert re.search(rf"error: DeepSpeed does not take the \[deepspeed\] table, which {message}", output)
