"""Frames as a user sees them, uint8 [B, F, H, W, 3], and as an autoencoder does, [B, 3, F, H, W] in [-1, 1]."""

import torch
from einops import rearrange
from torch import Tensor


def to_uint8(pixels: Tensor) -> Tensor:
    """[B, 3, F, H, W] in [-1, 1] to uint8 [B, F, H, W, 3]; what is outside is clamped."""
    levels = (pixels.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return rearrange(levels, "b c f h w -> b f h w c")


def from_uint8(frames: Tensor) -> Tensor:
    """uint8 [B, F, H, W, 3] to float32 [B, 3, F, H, W] in [-1, 1], of which `to_uint8` makes the same frames again."""
    planes = rearrange(frames, "b f h w c -> b c f h w").contiguous()  # converting is faster in order, and in place
    return planes.float().div_(127.5).sub_(1)
