"""Autoencoders and text encoders, built from their tables in the config.

The pretrained ones are adapters over diffusers and transformers, which are imported when one is asked for.
"""

import torch

from video_dit.config import AutoencoderConfig, TextEncoderConfig
from video_dit.contracts import Autoencoder, TextEncoder, truncated_by
from video_dit.encoders.autoencoders import HaarAutoencoder, PixelAutoencoder
from video_dit.encoders.text import HashTextEncoder

_CPU = torch.device("cpu")


def build_autoencoder(config: AutoencoderConfig, device: torch.device = _CPU) -> Autoencoder:
    """
    Raises:
        UserError: the model is not there, or is none that can be used.
    """
    if config.name == "pixel":
        return PixelAutoencoder()
    if config.name == "haar":
        return HaarAutoencoder()
    from video_dit.encoders.diffusers_autoencoders import DiffusersAutoencoder

    return DiffusersAutoencoder(config, device)


def build_text_encoder(config: TextEncoderConfig, device: torch.device = _CPU) -> TextEncoder:
    """
    Raises:
        UserError: a model is not there, or is none that can be used.
    """
    if config.name == "hash":
        return HashTextEncoder(config.max_length, config.width)
    from video_dit.encoders.transformers_text import TransformersTextEncoder

    return TransformersTextEncoder(config, device)


def truncation_warning(encoder: TextEncoder, prompt: str) -> str | None:
    """What a user should know of a prompt that is longer than the encoder reads; None where it fits."""
    cuts = [f"{segment.name} reads {segment.max_tokens} of {count}" for segment, count in truncated_by(encoder, prompt)]
    return f"the prompt is longer than its text encoder reads, in tokens: {', '.join(cuts)}: {prompt}" if cuts else None
