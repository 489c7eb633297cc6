"""Autoencoders and text encoders, built from their tables in the config."""

from video_dit.config import AutoencoderConfig, TextEncoderConfig
from video_dit.contracts import Autoencoder, TextEncoder
from video_dit.encoders.autoencoders import HaarAutoencoder, PixelAutoencoder
from video_dit.encoders.text import HashTextEncoder

_AUTOENCODERS: dict[str, type[Autoencoder]] = {"pixel": PixelAutoencoder, "haar": HaarAutoencoder}


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    return _AUTOENCODERS[config.name]()


def build_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    return HashTextEncoder(config.max_length, config.width)
