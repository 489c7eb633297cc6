"""Steps that go wrong: passed over alike at every ZeRO stage, and written down."""

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from launch import start_ranks, train
from safetensors.torch import load_file, save_file

from video_dit.config import load_config
from video_dit.training.alarms import MAX_IN_A_ROW, REMEMBERED, LossWatch

SPIKES = (*TINY, "training.steps=60", "training.spike_factor=1.1", "training.schedule=constant")


def watch(*overrides: str) -> LossWatch:
    return LossWatch(load_config(None, list(overrides)).training)


def test_a_spike_is_a_multiple_of_the_mean_of_the_steps_before() -> None:
    ours, without = watch("training.spike_factor=3"), watch()
    for step in range(REMEMBERED):
        assert ours.problem(100.0) is None  # too early to say
        ours.taken(1.0 + step % 2)
        without.taken(1.0)
    assert ours.problem(4.49) is None
    assert ours.problem(4.51) == "the loss is 4.51, and the mean of the 50 steps before is 1.5"
    assert without.problem(1e9) is None
    for wrong in (nan, inf):
        assert without.problem(wrong) == f"the loss is {wrong}"


def test_a_run_stops_at_once_or_after_some_steps_in_a_row() -> None:
    assert watch("training.bad_step=stop").must_stop()
    ours = watch()
    for _ in range(2):
        assert not any(ours.must_stop() for _ in range(MAX_IN_A_ROW))
        ours.taken(1.0)
    assert [ours.must_stop() for _ in range(MAX_IN_A_ROW + 1)] == [False] * MAX_IN_A_ROW + [True]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.distributed
def test_spikes_are_passed_over_alike_at_every_zero_stage(tiny_shards: Path, tmp_path: Path) -> None:
    """Had one been taken, later losses and norms would differ."""
    for name, num_ranks, stage in (("one", 1, 0), ("two", 2, 3)):
        train(num_ranks, "--data", tiny_shards, "--run", tmp_path / name, *SPIKES, f"training.zero_stage={stage}")
    one, two = (rows(tmp_path / name) for name in ("one", "two"))
    passed_over = [row["step"] for row in one if row["gradient_norm"] is None]
    assert 0 < len(passed_over) < 10
    assert min(passed_over) > REMEMBERED
    assert [row["step"] for row in two if row["gradient_norm"] is None] == passed_over
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    alarms = sorted((tmp_path / "two/alarms").iterdir())
    assert [alarm.name for alarm in alarms] == [
        f"step-{step:06d}-rank-{rank:05d}.json" for step in passed_over for rank in (0, 1)
    ]
    told = [sample for alarm in alarms[:2] for sample in json.loads(alarm.read_text())["samples"]]
    ids = (tmp_path / "one/alarms" / f"step-{passed_over[0]:06d}-rank-00000.json").read_text()
    assert sorted(sample["id"] for sample in told) == sorted(sample["id"] for sample in json.loads(ids)["samples"])
    mean = sum(sample["loss"] for sample in told) / len(told)
    assert mean == pytest.approx(one[passed_over[0] - 1]["loss"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("num_ranks", "stage"), [(1, 0), (2, 2)])
def test_a_run_without_a_finite_loss_ends_as_it_began(
    tiny_shards: Path, tmp_path: Path, num_ranks: int, stage: int
) -> None:
    settings = ("--data", tiny_shards, "--run", tmp_path / "run", *TINY, f"training.zero_stage={stage}")
    train(1, *settings, "training.steps=1")
    start = tmp_path / "start.safetensors"
    weights = load_file(tmp_path / "run/checkpoints/step-000001/ema.safetensors")
    first = next(iter(weights))
    weights[first].view(-1)[0] = nan
    save_file(weights, start)
    run = tmp_path / "broken"
    processes = start_ranks(
        num_ranks, "--data", tiny_shards, "--run", run, *TINY, f"training.zero_stage={stage}", "training.steps=30",
        f"training.initial_weights={start}",
    )  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [2] * num_ranks, said
    assert f"error: step {MAX_IN_A_ROW + 1} was not taken: the loss is nan." in said[0]
    assert "Traceback" not in "".join(said)
    ended = load_file(run / f"checkpoints/step-{MAX_IN_A_ROW:06d}/ema.safetensors")
    for name, tensor in weights.items():
        assert tensor.equal(ended[name]) or name == first, name
