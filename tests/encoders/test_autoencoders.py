import pytest
import torch

from video_dit.encoders.autoencoders import HaarAutoencoder, PixelAutoencoder
from video_dit.sampling.pipeline import to_uint8


@pytest.mark.parametrize("autoencoder", [PixelAutoencoder(), HaarAutoencoder()])
def test_every_pixel_survives_storage_as_fp16(autoencoder: PixelAutoencoder | HaarAutoencoder) -> None:
    """All 256 levels in every channel, next to any other level."""
    levels = torch.cat((torch.arange(256), torch.randint(256, (256 * 11,), generator=torch.Generator().manual_seed(0))))
    frames = levels.to(torch.uint8).reshape(1, 4, 16, 16, 3)
    latents = autoencoder.encode(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1)
    assert latents.shape[1] == autoencoder.channels
    assert torch.equal(to_uint8(autoencoder.decode(latents.half().float())), frames)


def test_haar_keeps_energy_and_starts_with_the_local_mean() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 4, 6, 8)
    latents = HaarAutoencoder().encode(pixels)
    assert latents.shape == (2, 24, 2, 3, 4)
    torch.testing.assert_close(latents.square().sum(), pixels.square().sum())
    means = torch.nn.functional.avg_pool3d(pixels, 2)
    torch.testing.assert_close(latents[:, :3], means * 8**0.5)
