"""Transformers over video and text tokens. Nothing here knows about noise schedules."""

from video_dit.config import Config
from video_dit.contracts import EncodedShape
from video_dit.models.video_dit import VideoDiT
from video_dit.shapes import token_grid


def build_model(config: Config, encoded: EncodedShape) -> VideoDiT:
    """A fresh model whose ends fit what the encoders make; its weights come from torch's global generator.

    Raises:
        UserError: the patches do not divide the latents.
    """
    return VideoDiT(
        config.model,
        channels=encoded.channels,
        text_width=encoded.text_width,
        pooled_width=encoded.pooled_width,
        trained_grid=token_grid(encoded.grid, config.model.patch_size),
    )
