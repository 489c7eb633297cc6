"""Video-DiT: text-to-video diffusion transformers.

from video_dit import VideoPipeline
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Imports the pipeline when it is asked for, so that a part of the library does not bring in the whole."""
    if name == "VideoPipeline":
        return import_module("video_dit.sampling.pipeline").VideoPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
