"""Transformers over video and text tokens. Nothing here knows about noise schedules."""

from torch import nn

from video_dit.config import ModelConfig
from video_dit.contracts import Autoencoder, TextEncoder
from video_dit.models.mmdit import MMDiT


def build_model(config: ModelConfig, autoencoder: Autoencoder, text_encoder: TextEncoder) -> nn.Module:
    """A fresh model whose ends fit the two encoders; its weights come from torch's global generator."""
    return MMDiT(
        channels=autoencoder.channels,
        text_width=text_encoder.width,
        pooled_width=text_encoder.pooled_width,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        qk_norm=config.qk_norm,
        position_embedding=config.position_embedding,
        feed_forward_chunk_size=config.feed_forward_chunk_size,
    )
