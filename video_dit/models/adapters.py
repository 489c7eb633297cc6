"""LoRA (Hu et al. 2021, arXiv 2106.09685) as PEFT does it; nothing else of the project knows PEFT."""

from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from torch import nn

from video_dit.config import LoraConfig


def add_adapters(model: nn.Module, layers: Sequence[str], config: LoraConfig) -> None:
    """Puts one beside each of these linear layers; A is drawn from torch's global generator, and B is zero."""
    inject_adapter_in_model(_peft_config(layers, config), model)


def write_adapter_config(folder: Path, layers: Sequence[str], config: LoraConfig) -> None:
    """adapter_config.json, by which PEFT knows what to do with adapter_model.safetensors."""
    _peft_config(layers, config).save_pretrained(folder)


def _peft_config(layers: Sequence[str], config: LoraConfig) -> PeftConfig:
    return PeftConfig(r=config.rank, lora_alpha=config.scale * config.rank, target_modules=list(layers))
