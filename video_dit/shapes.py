"""The legend of dimensions, and the arithmetic between pixels, latents and tokens.

B batch, C channels, F H W frames, height and width of the latent (or pixel) grid, V video tokens, L text tokens,
S = V + L, D hidden size, N heads, K head size, Dt width of a text embedding, Dp width of a pooled text embedding.

A triple is always (time, height, width). Clips are [B, C, F, H, W]; decoded frames are uint8 [F, H, W, C].
"""

from math import prod
from typing import NamedTuple, Protocol

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
                multiples = {max(step, length // step * step), (length // step + 1) * step}
                raise UserError(
                    f"{name} is {length}, which is not a multiple of {step}, the {what}: "
                    f"use {' or '.join(map(str, sorted(multiples)))}"
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


class Compression(Protocol):
    """How an autoencoder divides a clip into latent cells; see `contracts.Autoencoder`."""

    @property
    def stride(self) -> tuple[int, int, int]: ...

    @property
    def causal(self) -> bool: ...

    @property
    def frame_step(self) -> int: ...


def latent_grid(pixels: Grid, autoencoder: Compression) -> Grid:
    """The latent grid of a clip: F / st latent frames, st the stride, or 1 + (F - 1) / st where the first stands alone.

    Raises:
        UserError: the autoencoder does not take clips of this size.
    """
    alone, step = int(autoencoder.causal), autoencoder.frame_step
    if alone and (pixels.frames - 1) % step:
        below = (pixels.frames - 1) // step * step + 1
        raise UserError(
            f"frames is {pixels.frames}, and this autoencoder takes {step}k + 1 frames: use {below} or {below + step}"
        )
    cells = pixels._replace(frames=pixels.frames - alone).divided_by(autoencoder.stride, "stride of the autoencoder")
    return cells._replace(frames=alone + cells.frames)


def pixel_grid(latents: Grid, autoencoder: Compression) -> Grid:
    """The inverse of `latent_grid`.

    Raises:
        UserError: the autoencoder has no clip of this many latent frames.
    """
    alone, (step, *spatial) = int(autoencoder.causal), autoencoder.stride
    frames = alone + (latents.frames - alone) * step
    pixels = Grid(frames, latents.height * spatial[0], latents.width * spatial[1])
    latent_grid(pixels, autoencoder)
    return pixels


def token_grid(latents: Grid, patch_size: tuple[int, int, int]) -> Grid:
    """The grid of video tokens; its `size` is V.

    Raises:
        UserError: the latent grid is not a multiple of the patch size.
    """
    return latents.divided_by(patch_size, "patch size (model.patch_size)")
