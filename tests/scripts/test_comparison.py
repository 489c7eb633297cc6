"""Runs compared with held-out clips: what is refused, and what is in memory."""

import json
import sys
from itertools import chain
from pathlib import Path
from weakref import WeakSet

import evaluate
import pytest
from preprocessed import other_shards
from random_run import random_run

from data.dataset_info import DatasetInfo
from video_dit.config import Config, with_changes
from video_dit.errors import UserError
from video_dit.sampling.pipeline import VideoPipeline


@pytest.fixture
def runs(request: pytest.FixtureRequest, tiny_config: Config, tmp_path: Path) -> list[Path]:
    """Two, of which the first was trained on buckets without the clip of [data], and the second can have other data."""
    config = with_changes(tiny_config, "sampling", {"num_steps": 1})
    wider, other = (with_changes(config, "data", keys) for keys in ({"width": 24}, getattr(request, "param", {})))
    bucket = tiny_config.data.grid, 60
    return [random_run(tmp_path / "first", wider, bucket), random_run(tmp_path / "second", other)]


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


@pytest.mark.parametrize("option", ["--references", "--training"])
def test_shards_of_another_rate_or_encoder_are_refused(
    option: str, compare, runs: list[Path], tiny_shards: Path, tmp_path: Path
) -> None:
    """Before anything is decoded."""
    tables, fingerprints = DatasetInfo.read(tiny_shards).tables, DatasetInfo.read(tiny_shards).fingerprints
    faster = {**tables, "data": {**tables["data"], "fps": 8.0}}
    shards = {"--references": tiny_shards, "--training": tiny_shards}
    shards[option] = other_shards(tiny_shards, tmp_path / "faster", {}, tables=faster)
    said = f"{shards[option]} has clips of 8 frames per second, and {runs[0]} makes them of 4: preprocess .* data.fps=4"
    with pytest.raises(UserError, match=said):
        compare(*chain(*shards.items()))
    other = {**fingerprints, "autoencoder": "other"}
    shards[option] = other_shards(tiny_shards, tmp_path / "other", {}, fingerprints=other)
    with pytest.raises(UserError, match=f"{shards[option]} was made with the autoencoder other"):
        compare(*chain(*shards.items()))


@pytest.mark.parametrize("runs", [{"fps": 8.0}, {"num_frames": 2}], indirect=True, ids=str)
def test_runs_of_clips_that_differ_are_refused(compare, tiny_shards: Path) -> None:
    with pytest.raises(UserError, match=r"second makes clips of .*, and .*first of 4x16x16 at 4 frames per second: "):
        compare("--references", tiny_shards)
