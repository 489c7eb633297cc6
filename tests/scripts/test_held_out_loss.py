from pathlib import Path

import pytest
import torch
from held_out_loss import held_out_loss
from kept_videos import keep_videos
from random_run import random_run

from data.dataset import ClipDataset, load_once
from video_dit.config import Config
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.loss import LossFunction
from video_dit.training.validation import validate


def test_the_mean_over_clips_is_what_validation_says_of_them_together(
    tiny_shards: Path, tiny_config: Config, tmp_path: Path
) -> None:
    pipeline = VideoPipeline.from_run(random_run(tmp_path, tiny_config), device="cpu")
    dataset = ClipDataset(tiny_shards, seed=0)
    loss_function = LossFunction(pipeline.config, dataset.empty_prompt(), dataset.text_segments(), pipeline.device)
    together = validate(pipeline.model, loss_function, load_once(dataset, 10, 0, 1, batch_size=4)).figures()
    figures = held_out_loss(pipeline, tiny_shards, 10)
    assert figures["clips"] == 10
    for name in ("loss", "data_error"):
        assert figures[name]["value"] == pytest.approx(together[name], rel=1e-5)
        assert figures[name]["low"] < figures[name]["value"] < figures[name]["high"]
    assert [loss["value"] for loss in figures["loss_by_t"]] == pytest.approx(together["loss_by_t"], rel=1e-5)
    errors = {ratio: error["value"] for ratio, error in figures["data_error_by_noise_ratio"].items()}
    assert errors == pytest.approx(together["data_error_by_noise_ratio"], rel=1e-5)


def test_clips_that_were_made_before_change_nothing(tiny_shards: Path, tiny_config: Config, tmp_path: Path) -> None:
    """A step cache that they were made with skips no block of the model whose loss is measured."""
    pipeline = VideoPipeline.from_run(random_run(tmp_path, tiny_config), device="cpu")
    figures = held_out_loss(pipeline, tiny_shards, 2)
    pipeline("a red circle", num_steps=2, step_cache=1e9)
    assert held_out_loss(pipeline, tiny_shards, 2) == figures


def test_videos_are_encoded_as_for_training(
    tiny_shards: Path, shapes_videos: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the autoencoder's own precision, whatever that of the model's products."""
    pipeline = VideoPipeline.from_run(random_run(tmp_path / "run", tiny_config), device="cpu", precision="bf16")
    in_bf16: dict[str, set[bool]] = {"encode": set(), "forward": set()}

    def spy(part: object, name: str) -> None:
        function = getattr(part, name)
        spied = lambda *args: in_bf16[name].add(torch.is_autocast_enabled("cpu")) or function(*args)  # noqa: E731
        monkeypatch.setattr(part, name, spied)

    spy(pipeline.autoencoder, "encode")
    spy(pipeline.model, "forward")
    held_out_loss(pipeline, keep_videos(tiny_shards, shapes_videos, tmp_path / "videos"), 2)
    assert in_bf16 == {"encode": {False}, "forward": {True}}
