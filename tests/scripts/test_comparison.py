"""Runs compared with held-out clips: what is refused, and what is in memory."""

import json
import sys
from pathlib import Path
from weakref import WeakSet

import evaluate
import pytest
from random_run import random_run

from video_dit.config import Config, with_changes
from video_dit.sampling.pipeline import VideoPipeline


@pytest.fixture
def runs(tiny_config: Config, tmp_path: Path) -> list[Path]:
    config = with_changes(tiny_config, "sampling", {"num_steps": 1})
    return [random_run(tmp_path / name, config) for name in ("first", "second")]


@pytest.fixture
def compare(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs evaluate.py in this process with these arguments, and returns what it has written."""

    def call(*arguments: object) -> dict:
        options = ("--run", *runs, "--out", tmp_path / "out", "--clips", 4, *arguments)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
        evaluate.main()
        return json.loads((tmp_path / "out/comparison.json").read_text())

    return call


@pytest.mark.slow
def test_weights_of_one_run_are_in_memory_at_a_time(
    compare, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, alive, others = VideoPipeline.from_run, WeakSet(), []

    def from_run(run: Path) -> VideoPipeline:
        others.append(len(alive))
        alive.add(pipeline := load(run))
        return pipeline

    monkeypatch.setattr(VideoPipeline, "from_run", from_run)
    figures = compare("--references", tiny_shards)
    assert others == [0, 0]
    assert list(figures["held_out_loss"]) == ["first", "second"]
    assert list(figures["measures"]) == ["other held-out clips", "first", "second"]
