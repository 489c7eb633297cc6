import pytest
from torch import nn

from video_dit.config import load_config
from video_dit.errors import UserError
from video_dit.training.engine import build_optimizer, deepspeed_config, merge, micro_batch_size


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
    config = load_config(None, ["deepspeed.zero_optimization.overlap_comm=true", "deepspeed.gradient_clipping=0.5"])
    settings = deepspeed_config(config, num_ranks=2)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert settings["gradient_clipping"] == 0.5
    assert settings["train_batch_size"] == 2 * settings["train_micro_batch_size_per_gpu"]


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1}}


def test_what_would_break_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"deepspeed.train_batch_size: set training.batch_size"):
        deepspeed_config(load_config(None, ["deepspeed.train_batch_size=64"]), num_ranks=1)
    config = load_config(None, ["deepspeed.zero_optimization.compute_grad_norm=false"])
    with pytest.raises(UserError, match=r"compute_grad_norm is false, and must be true"):
        deepspeed_config(config, num_ranks=1)
    config = load_config(None, ["training.optimizer=muon", "training.zero_stage=3"])
    with pytest.raises(UserError, match=r"training.zero_stage 0, 1 or 2, not 3"):
        build_optimizer(nn.Linear(2, 2), config.training)
    with pytest.raises(UserError, match=r"training.gradient_clipping is 1, and must be 0"):
        build_optimizer(nn.Linear(2, 2), load_config(None, ["training.optimizer=muon"]).training)
