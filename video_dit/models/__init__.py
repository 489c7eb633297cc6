"""Transformers over video and text tokens. Nothing here knows about noise schedules."""

from video_dit.config import Config
from video_dit.contracts import Autoencoder, TextEncoder
from video_dit.models.video_dit import VideoDiT


def build_model(config: Config, autoencoder: Autoencoder, text_encoder: TextEncoder) -> VideoDiT:
    """A fresh model whose ends fit the two encoders; its weights come from torch's global generator."""
    return VideoDiT(
        config.model,
        channels=autoencoder.channels,
        text_width=text_encoder.width,
        pooled_width=text_encoder.pooled_width,
        trained_grid=config.token_grid,
    )
