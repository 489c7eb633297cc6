"""What a person watches, read back from everywhere it goes."""

import io
import json
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from video_dit.config import load_config
from video_dit.errors import UserError
from video_dit.run_folder import RunFolder
from video_dit.sampling.outputs import write_gif
from video_dit.training.meter import Speed
from video_dit.training.progress import Progress, Samples, StepRow
from video_dit.training.trackers import SampleClip, Service

ROWS = [
    StepRow(0.5, torch.tensor(2.0), True),
    StepRow(math.nan, torch.tensor(math.inf), False),
    StepRow(0.25, torch.tensor(4.0), True),
]
SPEED = Speed(seconds=6.0, waited=0.75, paused=2.5, clips=96, tokens=12_000, flops=9 * 10**12)


def log_all(progress: Progress, clip: SampleClip) -> None:
    progress.log(13, ROWS, [0.375] + [None] * 8, 1e-3, SPEED, 3 * 2**29)
    by_ratio = {0.5: 0.25, 1.0: 0.75}
    progress.log_validation(
        13, {"loss": 1.0, "loss_by_t": [1.0] * 9, "data_error": 0.5, "data_error_by_noise_ratio": by_ratio}
    )
    progress.log_samples(13, Samples([clip], {"all_as_asked": 0.75}))
    progress.close()


@pytest.fixture
def clip(tmp_path: Path) -> SampleClip:
    """Its MP4 is never looked into here."""
    mp4 = tmp_path / "clip.mp4"
    mp4.write_bytes(b"an MP4")
    gif = io.BytesIO()
    write_gif(gif, np.random.default_rng(0).integers(0, 255, (5, 8, 12, 3), dtype=np.uint8), fps=8)
    return SampleClip("a red circle", mp4, gif.getvalue(), (8, 12))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "my-run")
    run.path.mkdir()
    return run


def test_one_line_and_a_row_for_each_step(run: RunFolder, clip: SampleClip, capsys: pytest.CaptureFixture[str]) -> None:
    log_all(Progress(run, load_config(None, ["training.steps=2000"]), 10, 10e12), clip)
    line, validation, samples = capsys.readouterr().out.splitlines()
    assert line == (
        "step   13/2000  loss 0.3750  norm 3  lr 1.00e-03  2.00 s/step  2,000 tokens/s  16 clips/s  "
        "1.5 TFLOP/s (MFU 15.0%)  data 12.5%  1.50 GiB  1:33:50 left"
    )
    assert len(line) < 160
    assert validation == (
        "validation after step 13: loss 1.0000, from 1.0000 near the data to 1.0000; "
        "mean squared error of the data 0.5000"
    )
    assert samples == f"samples after step 13: {clip.mp4.parent}, all as asked 75.0%"
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert rows[0] == {"step": 11, "loss": 0.5, "gradient_norm": 2.0}
    assert rows[1] == {"step": 12, "loss": None, "gradient_norm": None, "skipped": True}
    assert rows[2] == {
        "step": 13, "loss": 0.25, "gradient_norm": 4.0, "loss_by_t": [0.375] + [None] * 8, "learning_rate": 1e-3,
        "step_seconds": 2.0, "tokens_per_second": 2000.0, "clips_per_second": 16.0, "flops_per_second": 1.5e12,
        "data_wait": 0.125, "paused_seconds": 2.5, "mfu": 0.15, "peak_memory": 3 * 2**29,
    }  # fmt: skip


def test_tensorboard_has_curves_and_moving_clips(run: RunFolder, clip: SampleClip) -> None:
    log_all(Progress(run, load_config(None, []), 10, 10e12), clip)
    events = EventAccumulator(str(run.tensorboard)).Reload()

    def curve(tag: str) -> list[tuple[int, float]]:
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]

    assert curve("loss") == [(11, 0.5), (13, 0.25)]
    assert curve("gradient_norm") == [(11, 2.0), (13, 4.0)]
    for tag, value in {
        "speed/mfu": 0.15, "speed/data_wait": 0.125, "speed/step_seconds": 2.0, "learning_rate": 1e-3,
        "memory/peak": 3 * 2**29, "loss_by_t/0.00-0.11": 0.375, "validation/loss": 1.0,
        "validation/data_error": 0.5, "validation_data_error/noise_ratio_0.5": 0.25,
        "samples_measured/all_as_asked": 0.75,
    }.items():  # fmt: skip
        assert curve(tag) == [(13, value)], tag
    (image,) = events.Images("samples/0: a red circle")
    assert (image.step, image.height, image.width) == (13, 8, 12)
    assert image.encoded_image_string == clip.gif
    assert Image.open(io.BytesIO(image.encoded_image_string)).n_frames == 5


@pytest.mark.slow
def test_services_keep_curves_and_clips_on_this_machine(
    run: RunFolder, clip: SampleClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    progress = Progress(run, load_config(None, ['training.trackers=["wandb", "trackio"]']), 10, None)
    log_all(progress, clip)

    (folder,) = (run.path / "wandb").glob("offline-run-*")
    (log,) = folder.glob("run-*.wandb")
    for written in (b"samples_measured/all_as_asked", b"gradient_norm", b"video-dit", b"my-run"):
        assert written in log.read_bytes()
    (video,) = folder.rglob("*.mp4")
    assert video.read_bytes() == clip.mp4.read_bytes()

    (database,) = (tmp_path / "TRACKIO_DIR").glob("*.db")
    with sqlite3.connect(database) as connection:
        found = connection.execute("select run_name, step, metrics from metrics order by id").fetchall()
    logged = [(step, json.loads(metrics)) for name, step, metrics in found if name == "my-run"]
    assert {step: row["loss"] for step, row in logged if "loss" in row} == {11: 0.5, 13: 0.25}
    (shown,) = (row["samples/0"] for _, row in logged if "samples/0" in row)
    assert shown["caption"] == "a red circle"
    (video,) = (tmp_path / "TRACKIO_DIR").rglob("*.mp4")
    assert video.read_bytes() == clip.mp4.read_bytes()


def test_a_service_that_is_not_installed_says_so(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"training.trackers has 'no_such_service', .*: pip install no_such_service"):
        Service("no_such_service", run, load_config(None, []))
