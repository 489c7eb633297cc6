"""Tiles against the whole clip."""

from pathlib import Path

import diffusers
import pytest
import torch
from einops import rearrange
from torch import Tensor

from data.video import read_windows
from video_dit.config import AutoencoderConfig, DataConfig
from video_dit.contracts import Autoencoder, Posterior
from video_dit.encoders import build_autoencoder
from video_dit.encoders.autoencoders import HaarAutoencoder, PixelAutoencoder
from video_dit.encoders.tiling import TiledAutoencoder
from video_dit.errors import UserError


class Recorder(PixelAutoencoder):
    """Passes pixels through, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.shapes.append(tuple(latents.shape[2:]))
        return latents


class Streaming(Recorder):
    streams = True


class Causal:
    """A latent frame is the mean of its frames; a frame is its latent frame's value."""

    stride, channels, causal, frame_step, streams = (4, 1, 1), 3, True, 4, False

    def encode(self, pixels: Tensor) -> Posterior:
        groups = pixels[:, :, 1:].unflatten(2, (-1, 4)).mean(3)
        latents = torch.cat((pixels[:, :, :1], groups), 2)
        return Posterior(latents, latents.abs())

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat((latents[:, :, :1], latents[:, :, 1:].repeat_interleave(4, 2)), 2)

    def to(self, device: torch.device) -> None:
        pass


@pytest.mark.parametrize(("tile", "overlap"), [((2, 3, 5), (1, 2, 4)), ((3, 4, 4), (0, 0, 0)), ((9, 9, 9), (1, 1, 1))])
@pytest.mark.parametrize("autoencoder", [PixelAutoencoder(), HaarAutoencoder()])
def test_what_sees_nothing_around_it_has_no_seams(
    autoencoder: Autoencoder, tile: tuple[int, int, int], overlap: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 8, 14, 22)
    latents, _ = autoencoder.encode(pixels)
    tiled = TiledAutoencoder(autoencoder, tile, overlap)
    torch.testing.assert_close(tiled.encode(pixels).mean, latents)
    assert tiled.encode(pixels).std is None
    torch.testing.assert_close(tiled.decode(latents), autoencoder.decode(latents))


@pytest.mark.parametrize(("size", "overlap"), [(4, 2), (5, 3), (3, 2)])
def test_windows_of_a_causal_autoencoder_fall_into_place(size: int, overlap: int) -> None:
    """The first frame of a later window, which stands for four, is given up with the edge."""
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 45, 2, 2)
    latents, std = Causal().encode(pixels)
    tiled = TiledAutoencoder(Causal(), (size, 9, 9), (overlap, 0, 0))
    torch.testing.assert_close(tiled.encode(pixels), (latents, std))
    torch.testing.assert_close(tiled.decode(latents), Causal().decode(latents))
    with pytest.raises(UserError, match=r"tile_overlap is 0 in time, .*: give 1 or more"):
        TiledAutoencoder(Causal(), (size, 9, 9), (0, 0, 0))
    with pytest.raises(UserError, match=r"frames is 44, and this autoencoder takes 4k . 1"):
        tiled.encode(pixels[:, :, 1:])


def test_no_tile_is_larger_than_asked_and_time_is_left_to_those_that_stream() -> None:
    latents = torch.zeros(1, 3, 7, 10, 12)
    for autoencoder, frames in ((Recorder(), 3), (Streaming(), 7)):
        TiledAutoencoder(autoencoder, (3, 4, 5), (1, 1, 2)).decode(latents)
        assert set(autoencoder.shapes) == {(frames, 4, 5)}


def saved_tiny(folder: Path) -> AutoencoderConfig:
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    ).save_pretrained(folder)  # fmt: skip
    return AutoencoderConfig(
        name="diffusers", model=str(folder), tile_size=(1, 26, 26), tile_overlap=(0, 20, 20), dtype="fp32"
    )


def saved_ltx(folder: Path) -> AutoencoderConfig:
    torch.manual_seed(0)
    diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), patch_size=2,
        down_block_types=("LTXVideoDownBlock3D",) * 2, layers_per_block=(1,) * 3, decoder_layers_per_block=(1,) * 3,
        spatio_temporal_scaling=(True, False), decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False,) * 3, upsample_residual=(False,) * 2, upsample_factor=(1, 1),
    ).save_pretrained(folder)  # fmt: skip
    return AutoencoderConfig(name="diffusers", model=str(folder), tile_size=(54, 9, 9), tile_overlap=(48, 1, 1))


@pytest.mark.parametrize(
    ("save", "shape"), [(saved_tiny, (2, 70, 66)), (saved_ltx, (1 + 2 * 62, 8, 8))], ids=["in space", "in time"]
)
def test_convolutions_give_what_they_give_for_the_whole(
    save: object, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    config = save(tmp_path)  # type: ignore[operator]
    tiled, whole = build_autoencoder(config), build_autoencoder(config.model_copy(update={"tile_size": None}))
    torch.manual_seed(1)
    pixels = torch.rand(1, 3, *shape) * 2 - 1
    latents, std = whole.encode(pixels)
    torch.testing.assert_close(tiled.encode(pixels).mean, latents, atol=1e-4, rtol=0)
    if std is not None:
        torch.testing.assert_close(tiled.encode(pixels).std, std, atol=1e-4, rtol=0)
    torch.testing.assert_close(tiled.decode(latents), whole.decode(latents), atol=1e-4, rtol=0)
    careless = TiledAutoencoder(whole, (32, 18, 18), (1, 1, 1))
    assert (careless.decode(latents) - whole.decode(latents)).abs().max() > 1e-2


def test_taesd3_has_no_seams(taesd3: Path, assets: Path) -> None:
    """Real weights, real frame: 76 cells in tiles of 58."""
    config = DataConfig(num_frames=1, height=64, width=608)
    frame = next(read_windows(assets / "clips/multishot/bikes.mp4", config)).frames
    pixels = rearrange(torch.from_numpy(frame), "f h w c -> 1 c f h w") / 127.5 - 1
    whole = build_autoencoder(AutoencoderConfig(name="diffusers", model=str(taesd3)))
    tiled = TiledAutoencoder(whole, (1, 8, 58), (0, 0, 40))
    latents, _ = whole.encode(pixels)
    torch.testing.assert_close(tiled.encode(pixels).mean, latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(tiled.decode(latents), whole.decode(latents), atol=1e-3, rtol=0)
