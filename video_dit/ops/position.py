"""Where a video token stands in time and space."""

import torch
from einops import rearrange
from torch import Tensor

from video_dit.shapes import Grid

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine, [V, K/2] or, where samples differ, [B, V, K/2]."""


def grid_positions(grid: Grid, device: torch.device | None = None) -> Tensor:
    """[V, 3] float: the (time, height, width) index of each token, in the order in which patchify lays them."""
    axes = [torch.arange(length, dtype=torch.float32, device=device) for length in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def rotary_embedding(positions: Tensor, split: tuple[int, int, int], base: tuple[float, float, float]) -> Rotary:
    """Cosine and sine of 3-D rotary embeddings: each axis turns its own share of a head's channel pairs.

    RoFormer (Su et al. 2021, arXiv 2104.09864, equation 15), applied per axis.

    Args:
        positions: [..., V, 3] float, (time, height, width) of each token; any real number.
        split: channels of a head that turn with time, height and width; even.
        base: of the wavelengths, per axis.

    Returns:
        cos and sin, [..., V, K/2] float32.
    """
    angles = []
    for axis, (channels, theta) in enumerate(zip(split, base, strict=True)):
        exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
        angles.append(positions[..., axis, None] * theta**-exponents)
    angle = torch.cat(angles, dim=-1)
    return angle.cos().float(), angle.sin().float()


def ntk_base(base: float, channels: int, stretch: float) -> float:
    """The base with which the slowest of the axis' wavelengths spans `stretch` times as far.

    NTK-aware scaling: base * stretch^(d / (d - 2)) (Peng et al. 2023, YaRN, arXiv 2309.00071, section 3.1).
    """
    return float(base * stretch ** (channels / max(channels - 2, 1)))


def apply_rotary(x_BNVK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns neighbouring channel pairs of [B, N, V, K] by the angles of `rotary_embedding`; the norm is kept."""
    x = x_BNVK.to(torch.promote_types(x_BNVK.dtype, torch.float32))
    cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    if torch.compiler.is_compiling():  # which fuses real numbers, and has no code for complex ones
        even, odd = rearrange(x, "b n v (pair two) -> two b n v pair", two=2)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:  # the same in one pass over memory
        pairs = torch.view_as_complex(rearrange(x, "b n v (pair two) -> b n v pair two", two=2))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin))
    return rearrange(turned, "b n v pair two -> b n v (pair two)").type_as(x_BNVK)


def sinusoidal_embedding(positions: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of a scalar at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Args:
        positions: [...] float.
        width: even number of channels.
        max_period: the longest wavelength, over 2 pi.

    Returns:
        [..., width] float32: width/2 cosines, then width/2 sines.
    """
    exponents = torch.arange(width // 2, dtype=torch.float64, device=positions.device) / (width // 2)
    angle = positions[..., None].double() * max_period**-exponents
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()


def spatial_sincos_embedding(heights: Tensor, widths: Tensor, hidden_size: int) -> Tensor:
    """Fixed absolute embeddings in the layout of SD3: half the channels for the width, then half for the height.

    Args:
        heights: [..., H] float, the rows of a frame.
        widths: [..., W] float, its columns.
        hidden_size: D, a multiple of 4.

    Returns:
        [..., H*W, D] float32, row by row; within each half, sines and then cosines.
    """
    of_height, of_width = (
        sinusoidal_embedding(places, hidden_size // 2).roll(hidden_size // 4, dims=-1) for places in (heights, widths)
    )
    halves = of_width.tile(heights.shape[-1], 1), of_height.repeat_interleave(widths.shape[-1], dim=-2)
    return torch.cat(halves, dim=-1)


def temporal_sincos_embedding(times: Tensor, hidden_size: int) -> Tensor:
    """The same for the time, over all channels: [..., F] to [..., F, D].

    Added to the spatial one, it makes a factorised embedding.
    """
    return sinusoidal_embedding(times, hidden_size).roll(hidden_size // 2, dims=-1)
