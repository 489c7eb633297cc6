"""Where a video token stands in time and space."""

import torch
from einops import rearrange
from torch import Tensor

from video_dit.errors import UserError
from video_dit.shapes import Grid


def split_head(head_size: int) -> tuple[int, int, int]:
    """How many channels of a head rotate with time, height and width: even counts, about 1 : 1.5 : 1.5.

    Raises:
        UserError: the head is too small to give each axis a pair of channels.
    """
    if head_size % 2 or head_size < 6:
        raise UserError(
            f"model.hidden_size / model.num_heads must be even and at least 6 for rotary embeddings, not {head_size}"
        )
    pairs = head_size // 2
    spatial = (pairs * 3 + 7) // 8
    if pairs - 2 * spatial < 1:
        spatial = (pairs - 1) // 2
    return 2 * (pairs - 2 * spatial), 2 * spatial, 2 * spatial


def grid_positions(grid: Grid, device: torch.device | None = None) -> Tensor:
    """[V, 3] float: the (time, height, width) index of each token, in the order in which patchify lays them."""
    axes = [torch.arange(length, dtype=torch.float32, device=device) for length in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def rotary_embedding(positions: Tensor, head_size: int, theta: float = 100.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 3-D rotary embeddings: each axis turns its own share of a head's channel pairs.

    RoFormer (Su et al. 2021, arXiv 2104.09864, equation 15), applied per axis.

    Args:
        positions: [V, 3] float, (time, height, width) of each token; any real number.
        head_size: K.
        theta: base of the wavelengths; small, because a clip is tens of patches along an axis, not thousands.

    Returns:
        cos and sin, [V, K/2] float32.
    """
    angles = []
    for axis, channels in enumerate(split_head(head_size)):
        exponents = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device) / channels
        angles.append(positions[:, axis, None] * theta**-exponents)
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def apply_rotary(x_BNVK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns neighbouring channel pairs of [B, N, V, K] by the angles of `rotary_embedding`; the norm is kept."""
    even, odd = rearrange(x_BNVK.float(), "b n v (pair two) -> two b n v pair", two=2)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rearrange(rotated, "b n v pair two -> b n v (pair two)").type_as(x_BNVK)


def sinusoidal_embedding(positions: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of a scalar at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Args:
        positions: [...] float.
        width: even number of channels.
        max_period: the longest wavelength, over 2 pi.

    Returns:
        [..., width] float32: width/2 cosines, then width/2 sines.
    """
    exponents = torch.arange(width // 2, dtype=torch.float32, device=positions.device) / (width // 2)
    angle = positions.float()[..., None] * max_period**-exponents
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def sincos_embedding(positions: Tensor, hidden_size: int) -> Tensor:
    """Fixed absolute embeddings: one half of the channels for the height, the other for the width, and time over all.

    Args:
        positions: [V, 3] float, (time, height, width) of each token.
        hidden_size: D, a multiple of 4.

    Returns:
        [V, D] float32.
    """
    time, height, width = positions.unbind(-1)
    spatial = [sinusoidal_embedding(axis, hidden_size // 2) for axis in (height, width)]
    return torch.cat(spatial, dim=-1) + sinusoidal_embedding(time, hidden_size)
