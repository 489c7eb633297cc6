import pytest
import torch

from video_dit.encoders.autoencoders import HaarAutoencoder, PixelAutoencoder
from video_dit.frames import to_uint8


@pytest.mark.parametrize(("autoencoder", "tolerance"), [(PixelAutoencoder(), 0), (HaarAutoencoder(), 1)])
def test_every_pixel_survives_storage_as_bf16(autoencoder: PixelAutoencoder | HaarAutoencoder, tolerance: int) -> None:
    """All 256 levels in every channel, next to any other level; of wavelets, to one level now and then."""
    levels = torch.cat((torch.arange(256), torch.randint(256, (256 * 11,), generator=torch.Generator().manual_seed(0))))
    frames = levels.to(torch.uint8).reshape(1, 4, 16, 16, 3)
    latents, std = autoencoder.encode(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1)
    assert latents.shape[1] == autoencoder.channels
    assert std is None
    errors = (to_uint8(autoencoder.decode(latents.bfloat16().float())).int() - frames.int()).abs()
    assert errors.max() <= tolerance
    assert (errors > 0).float().mean() < 1e-3


def test_haar_keeps_energy_and_starts_with_the_local_mean() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 4, 6, 8)
    latents = HaarAutoencoder().encode(pixels).mean
    assert latents.shape == (2, 24, 2, 3, 4)
    torch.testing.assert_close(latents.square().sum(), pixels.square().sum())
    means = torch.nn.functional.avg_pool3d(pixels, 2)
    torch.testing.assert_close(latents[:, :3], means * 8**0.5)
