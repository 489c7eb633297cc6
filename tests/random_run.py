"""Run folders as training leaves them, with random weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from video_dit.config import Config
from video_dit.contracts import EncodedShape
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.encoders.fingerprint import encoder_fingerprints
from video_dit.models import build_model
from video_dit.run_folder import RunFolder, TrainingData
from video_dit.shapes import Grid


def random_run(folder: Path, config: Config, *shapes: tuple[Grid, int]) -> Path:
    """Where clips have other shapes than that of [data], all fit into it."""
    run = RunFolder(folder)
    autoencoder, text_encoder = build_autoencoder(config.autoencoder), build_text_encoder(config.text_encoder)
    encoded = EncodedShape.of(config.data.grid, autoencoder, text_encoder)
    run.open(config, TrainingData("videos", encoder_fingerprints(config), encoded.grid, shapes), ["a prompt"])
    torch.manual_seed(0)
    model = build_model(config, encoded)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    run.checkpoint(1).mkdir()
    save_file(model.state_dict(), run.checkpoint(1) / "ema.safetensors")
    run.publish_checkpoint(run.checkpoint(1), keep=1)
    return run.path
