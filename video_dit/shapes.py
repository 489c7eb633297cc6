"""The legend of dimensions, and the arithmetic between pixels, latents and tokens.

B batch, C channels, F H W frames, height and width of the latent (or pixel) grid, V video tokens, L text tokens,
S = V + L, D hidden size, N heads, K head size, Dt width of a text embedding, Dp width of a pooled text embedding.

A triple is always (time, height, width). Clips are [B, C, F, H, W]; decoded frames are uint8 [F, H, W, C].
"""

from math import prod
from typing import NamedTuple

from video_dit.errors import UserError


class Grid(NamedTuple):
    """A count of cells along time, height and width: of pixels, of latents or of tokens."""

    frames: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return prod(self)

    def divided_by(self, stride: tuple[int, int, int], what: str) -> "Grid":
        """The grid of cells of size `stride` that tile this grid.

        `what` names the stride in the error.

        Raises:
            UserError: a dimension is not a multiple of its stride.
        """
        for name, length, step in zip(self._fields, self, stride, strict=True):
            if length % step:
                raise UserError(
                    f"{name} is {length}, which is not a multiple of {step}, the {what}: "
                    f"use {max(step, length // step * step)} or {(length // step + 1) * step}"
                )
        return Grid(*(length // step for length, step in zip(self, stride, strict=True)))


def split_head(head_size: int) -> tuple[int, int, int]:
    """How many channels of a head turn with time, height and width: even counts, about 1 : 1.5 : 1.5.

    Raises:
        UserError: the head is too small to give each axis a pair of channels.
    """
    if head_size % 2 or head_size < 6:
        raise UserError(
            f"model.hidden_size / model.num_heads is {head_size}, and must be even and at least 6 for rotary "
            "embeddings: change model.num_heads, or set model.rotary=false"
        )
    pairs = head_size // 2
    spatial = (pairs * 3 + 7) // 8
    if pairs - 2 * spatial < 1:
        spatial = (pairs - 1) // 2
    return 2 * (pairs - 2 * spatial), 2 * spatial, 2 * spatial


def latent_grid(pixels: Grid, stride: tuple[int, int, int]) -> Grid:
    """The latent grid of an autoencoder with this stride.

    Raises:
        UserError: the pixel grid is not a multiple of the stride.
    """
    return pixels.divided_by(stride, "stride of the autoencoder")


def token_grid(latents: Grid, patch_size: tuple[int, int, int]) -> Grid:
    """The grid of video tokens; its `size` is V.

    Raises:
        UserError: the latent grid is not a multiple of the patch size.
    """
    return latents.divided_by(patch_size, "patch size (model.patch_size)")
