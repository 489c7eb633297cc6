"""The config of a run: its schema, and how it is read, overridden, explained and written."""

from video_dit.config.data import (
    AUTOENCODER_STRIDES,
    WHERE_AND_HOW,
    AutoencoderConfig,
    DataConfig,
    Limits,
    TextEncoderConfig,
)
from video_dit.config.diffusion import DiffusionConfig, GuidanceMethod, Prediction, SamplingConfig, Solver
from video_dit.config.load import ConfigError, describe, dump, explain, load_config, read_toml, with_changes
from video_dit.config.lora import LoraConfig
from video_dit.config.model import ModelConfig
from video_dit.config.preprocessing import BucketsConfig, CaptionerConfig, FiltersConfig, ShotsConfig
from video_dit.config.schema import Config
from video_dit.config.table import Autocast, Precision
from video_dit.config.training import TrainingConfig

__all__ = [
    "AUTOENCODER_STRIDES",
    "WHERE_AND_HOW",
    "Autocast",
    "AutoencoderConfig",
    "BucketsConfig",
    "CaptionerConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DiffusionConfig",
    "FiltersConfig",
    "GuidanceMethod",
    "Limits",
    "LoraConfig",
    "ModelConfig",
    "Precision",
    "Prediction",
    "SamplingConfig",
    "ShotsConfig",
    "Solver",
    "TextEncoderConfig",
    "TrainingConfig",
    "describe",
    "dump",
    "explain",
    "load_config",
    "read_toml",
    "with_changes",
]
