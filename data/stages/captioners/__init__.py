"""Captioners: models that look at some frames of a clip and describe it.

transformers is imported when a config asks for it.
"""

import torch

from data.stages.captioners.contract import Captioner
from data.stages.captioners.server import ServerCaptioner
from video_dit.config import CaptionerConfig

__all__ = ["Captioner", "build_captioner"]


def build_captioner(config: CaptionerConfig, device: torch.device) -> Captioner:
    """
    Args:
        config: the [captioner] table; its name is not "none".
        device: where to compute; a server has its own.

    Raises:
        UserError: the model is not there, or is none that can be used.
    """
    if config.name == "server":
        return ServerCaptioner(config)
    assert config.name == "transformers"
    from data.stages.captioners.transformers_model import TransformersCaptioner

    return TransformersCaptioner(config, device)
