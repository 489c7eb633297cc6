"""Lossless autoencoders without weights: raw pixels, and Haar wavelets."""

import torch
from einops import rearrange
from torch import Tensor

from video_dit.config import AUTOENCODER_STRIDES
from video_dit.contracts import Posterior


class _Weightless:
    causal = False
    streams = False

    def to(self, device: torch.device) -> None:
        """Nothing to move: latents and pixels stay where they are."""


class PixelAutoencoder(_Weightless):
    """The pixels are the latents."""

    stride = AUTOENCODER_STRIDES["pixel"]
    frame_step = stride[0]
    channels = 3

    def encode(self, pixels: Tensor) -> Posterior:
        """[B, 3, F, H, W] in [-1, 1], unchanged."""
        return Posterior(pixels, None)

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 3, F, H, W], unchanged."""
        return latents


class HaarAutoencoder(_Weightless):
    """One level of the orthonormal 3-D Haar wavelet: each 2x2x2 cube of pixels becomes 8 bands of 3 channels.

    The transform is its own transpose and inverse (Haar 1910), so that white noise stays white and nothing is lost.
    """

    stride = AUTOENCODER_STRIDES["haar"]
    frame_step = stride[0]
    channels = 24

    def __init__(self) -> None:
        haar = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
        self._bands = torch.einsum("ai,bj,ck->abcijk", haar, haar, haar).reshape(8, 8)

    def encode(self, pixels: Tensor) -> Posterior:
        """[B, 3, F, H, W] in [-1, 1] to [B, 24, F/2, H/2, W/2]; channels 0 to 2 are the local mean."""
        cubes = rearrange(pixels, "b c (f i) (h j) (w k) -> b c (i j k) f h w", i=2, j=2, k=2)
        bands = torch.einsum("zy,bcyfhw->bzcfhw", self._bands.to(pixels), cubes)
        return Posterior(rearrange(bands, "b z c f h w -> b (z c) f h w"), None)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        bands = rearrange(latents, "b (z c) f h w -> b z c f h w", z=8)
        cubes = torch.einsum("zy,bzcfhw->bcyfhw", self._bands.to(latents), bands)
        return rearrange(cubes, "b c (i j k) f h w -> b c (f i) (h j) (w k)", i=2, j=2, k=2)
