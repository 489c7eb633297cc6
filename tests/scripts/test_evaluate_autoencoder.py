import json
import math
import sys
from pathlib import Path

import pytest
import torch
from evaluate_autoencoder import decoded_again, main, summary
from kept_videos import keep_videos

from video_dit.encoders.autoencoders import PixelAutoencoder
from video_dit.errors import UserError
from video_dit.evaluation.similarity import psnr

CPU = torch.device("cpu")


class Darker(PixelAutoencoder):
    """Comes back ten levels darker."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents - 20 / 255


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate_autoencoder.py", *map(str, arguments)])
    main()


def test_the_error_is_that_of_the_decoded_frames() -> None:
    frames = torch.randint(60, 200, (2, 4, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    decoded = decoded_again(frames, Darker(), CPU)
    errors = frames.int() - decoded.int()
    assert (errors - 10).abs().max() <= 1  # latents are kept in bf16
    assert psnr(decoded, frames).tolist() == pytest.approx([20 * math.log10(255 / 10)] * 2, abs=0.2)


def test_clips_that_come_back_exactly_are_counted_and_left_out() -> None:
    figures = summary({"PSNR in dB": torch.tensor([30.0, torch.inf, 34.0]), "SSIM": torch.tensor([0.9, 1.0, 0.8])})
    assert (figures["clips"], figures["clips that come back exactly"]) == (3, 1)
    assert figures["PSNR in dB"]["value"] == 32
    assert figures["SSIM"]["value"] == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["pixel", "haar"])
def test_the_lossless_ones_lose_nothing(
    name: str, tiny_shards: Path, shapes_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = keep_videos(tiny_shards, shapes_videos, tmp_path / "videos")
    run(monkeypatch, shards, "--out", tmp_path / "out", "--clips", 3, f"autoencoder.name={name}")
    figures = json.loads((tmp_path / "out/autoencoder.json").read_text())
    assert figures["autoencoder"]["name"] == name
    assert (figures["clips that come back exactly"], figures["PSNR in dB"]) == (3, None)
    assert figures["SSIM"] == {"value": 1, "low": 1, "high": 1}
    assert (tmp_path / "out/autoencoder.png").exists()


def test_shards_of_latents_are_refused(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"holds latents, not frames: make it with preprocess.py --keep-videos"):
        run(monkeypatch, tiny_shards, "--out", tmp_path)
