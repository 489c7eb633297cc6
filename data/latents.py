"""From frames to latents, in preprocessing and, where shards hold videos, in training: one way, so that both agree."""

import torch
from torch import Generator, Tensor

from video_dit.contracts import Autoencoder, Posterior
from video_dit.frames import from_uint8
from video_dit.seeds import derive_seed

STORED = torch.bfloat16
"""What latents and embeddings are kept in. The 256 levels of a pixel are twice as far apart as its numbers near 1."""


def encode(frames: Tensor, autoencoder: Autoencoder) -> Posterior:
    """uint8 [B, F, H, W, 3] to the posterior of their latents, rounded as shards keep it, where the autoencoder is."""
    mean, std = autoencoder.encode(from_uint8(frames))
    return Posterior(mean.to(STORED), None if std is None else std.to(STORED))


def draw_latents(mean: Tensor, std: Tensor | None, seed: int) -> Tensor:
    """Latents of one clip, float32: mean + std * noise.

    Args:
        mean: [C, F, H, W].
        std: alike; None: the mean is all.
        seed: of the sample's draws, a function of (seed, epoch, sample id) alone; the noise here is one more of them.
    """
    if std is None:
        return mean.float()
    generator = Generator().manual_seed(derive_seed(seed, "latents"))
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return torch.addcmul(mean.float(), std.float(), noise)
