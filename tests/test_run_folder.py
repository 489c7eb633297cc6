import json
import os
from pathlib import Path

import pytest

from video_dit.config import Config, ConfigError, DataConfig, load_config
from video_dit.run_folder import RunFolder, TrainingData, read_rows
from video_dit.shapes import Grid

SHAPES = ((Grid(1, 32, 32), 50), (Grid(8, 16, 32), 3), (Grid(8, 32, 32), 7))
DATA = TrainingData("videos", {"autoencoder": "first"}, Grid(1, 2, 3), SHAPES)


def test_a_run_can_be_reopened_with_another_length_but_not_another_model(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.open(Config(), DATA, ["a prompt"]) == []
    assert run.load_config() == Config()
    assert run.open(Config(), DATA, ["a prompt"]) == []
    assert (
        run.open(load_config(None, ["model.depth=7"]), DATA, ["a prompt"]) == []
    )  # nothing is lost before a checkpoint
    run.open(Config(), DATA, ["a prompt"])
    run.checkpoint(1).mkdir()
    run.publish_checkpoint(run.checkpoint(1), keep=1)
    longer = load_config(None, ["training.steps=5000"])
    assert run.open(longer, DATA, ["a prompt"]) == ["training.steps: 1000 before, 5000 now"]
    with pytest.raises(ConfigError, match=r"started with model.depth = 6, and this is 7: give --run another folder"):
        run.open(load_config(None, ["model.depth=7"]), DATA, ["a prompt"])
    with pytest.raises(ConfigError, match="was started with seed = 0, and this is 1"):
        run.open(load_config(None, ["seed=1"]), DATA, ["a prompt"])
    with pytest.raises(ConfigError, match=r"was started with training.optimizer = 'adamw'"):
        run.open(load_config(None, ["training.optimizer=muon"]), DATA, ["a prompt"])
    with pytest.raises(ConfigError, match=r"was started with training.batch_by_tokens = False, and this is True"):
        run.open(load_config(None, ["training.batch_by_tokens=true"]), DATA, ["a prompt"])
    with pytest.raises(ConfigError, match=r"was started with training.ema_widths = \(\), and this is \(0.1,\)"):
        run.open(load_config(None, ["training.ema_widths=[0.1]"]), DATA, ["a prompt"])
    with pytest.raises(ConfigError, match="was started with shards of other videos"):
        run.open(Config(), DATA._replace(inputs="other videos"), ["a prompt"])
    with pytest.raises(ConfigError, match=r"shards of the autoencoder first, and these are of second: give --data"):
        run.open(Config(), DATA._replace(fingerprints={"autoencoder": "second"}), ["a prompt"])
    assert run.open(longer, DATA._replace(fingerprints={"autoencoder": None}), ["a prompt"]) == []
    moved = load_config(None, ["training.steps=5000", "autoencoder.frames_per_chunk=2"])
    assert run.open(moved, DATA, ["a prompt"]) == ["autoencoder.frames_per_chunk: 16 before, 2 now"]
    assert run.load_config() == moved
    assert run.load_data() == DATA


def test_the_usual_shape_is_that_of_data_or_else_that_of_most_frames() -> None:
    for configured, usual in (((8, 16, 32), (8, 16, 32)), ((8, 64, 64), (8, 32, 32))):
        frames, height, width = configured
        table = DataConfig(num_frames=frames, height=height, width=width, fps=7)
        assert (DATA.usual_clip(table).grid, DATA.usual_clip(table).fps) == (usual, 7)


def test_data_of_before_shapes_were_kept_has_that_of_the_config(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.data_file.write_text('{"inputs": "videos", "fingerprints": {"autoencoder": "first"}, "grid": [1, 2, 3]}')
    assert run.load_data() == DATA._replace(shapes=())
    assert run.load_data().usual_clip(DataConfig()) == DataConfig()


def test_a_folder_is_trained_in_by_one_process(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.take()
    with pytest.raises(ConfigError, match=rf"run is trained in by process {os.getpid()} on .*: let it end, or end it"):
        run.take()
    RunFolder(tmp_path / "other").take()


def test_rows_are_those_that_were_written_whole(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_rows(run.metrics) == []
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(run.metrics) == [{"step": 1}, {"step": 2}]
    run.metrics.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"line 2 of .*metrics.jsonl is no row .*: mend it, or remove it"):
        read_rows(run.metrics)


def test_checkpoints_of_steps_that_a_run_has_gone_back_from_go(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    for step in (4, 8, 12):
        run.checkpoint(step).mkdir()
        run.publish_checkpoint(run.checkpoint(step), keep=3)
    (run.checkpoints / "latest").write_text("step-000004\n")
    run.checkpoint(5).mkdir()
    run.publish_checkpoint(run.checkpoint(5), keep=3)
    assert run.complete_checkpoints() == [run.checkpoint(4), run.checkpoint(5)]


def test_checkpoints_are_named_when_complete_and_old_ones_go(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    assert run.latest_checkpoint() is None
    for step in (999_990, 999_999, 1_000_005):
        run.checkpoint(step).mkdir()
        run.publish_checkpoint(run.checkpoint(step), keep=2)
        assert run.latest_checkpoint() == run.checkpoint(step)
    assert sorted(path.name for path in run.checkpoints.glob("step-*")) == ["step-1000005", "step-999999"]


def test_the_checkpoint_that_the_last_alarm_can_be_replayed_from_stays(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    run.alarm(1).parent.mkdir()
    for step, checkpoint in ((4, "step-000003"), (1_000_003, "step-1000002")):
        run.alarm(step).write_text(json.dumps({"checkpoint": checkpoint}))
    for step in (3, 1_000_002, 1_000_010, 1_000_020, 1_000_030):
        run.checkpoint(step).mkdir()
        run.publish_checkpoint(run.checkpoint(step), keep=1)
    assert sorted(path.name for path in run.checkpoints.glob("step-*")) == ["step-1000002", "step-1000030"]


def test_snapshots_of_steps_that_will_be_taken_again_go(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.forget_snapshots_after(0)
    for step in (999_990, 1_000_005, 999_999):
        run.snapshot(step).mkdir(parents=True)
    run.snapshot(999_980).with_suffix(".unfinished").mkdir()
    assert run.snapshots() == [run.snapshot(step) for step in (999_990, 999_999, 1_000_005)]
    run.forget_snapshots_after(999_999)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["step-999990", "step-999999"]


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunFolder(tmp_path).load_config()
    run = RunFolder(tmp_path / "run")
    run.open(Config(), DATA, [])
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        run.averaged_weights()
