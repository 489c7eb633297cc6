"""The config of a run: its schema, and how it is read, overridden, explained and written."""

from video_dit.config.load import ConfigError, describe, dump, explain, load_config, with_changes
from video_dit.config.schema import (
    AUTOENCODER_STRIDES,
    AutoencoderConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    GuidanceMethod,
    ModelConfig,
    Precision,
    Prediction,
    SamplingConfig,
    Solver,
    TextEncoderConfig,
    TrainingConfig,
)

__all__ = [
    "AUTOENCODER_STRIDES",
    "AutoencoderConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DiffusionConfig",
    "GuidanceMethod",
    "ModelConfig",
    "Precision",
    "Prediction",
    "SamplingConfig",
    "Solver",
    "TextEncoderConfig",
    "TrainingConfig",
    "describe",
    "dump",
    "explain",
    "load_config",
    "with_changes",
]
