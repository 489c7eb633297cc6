"""Pretrained autoencoders, on tiny ones with random weights, and on TAESD3's where its weights are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from data.video import read_windows
from video_dit.config import AutoencoderConfig, DataConfig
from video_dit.contracts import Autoencoder
from video_dit.encoders import build_autoencoder
from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid, pixel_grid

MEAN, STD = [0.1, -0.2, 0.3, 0.05], [0.5, 2.0, 1.5, 0.8]
DOWN, UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
BLOCKS = ("ResBlock", "EfficientViTBlock")

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("AutoencoderKL", {
        "down_block_types": DOWN, "up_block_types": UP, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "latent_channels": 4, "scaling_factor": 1.5, "shift_factor": 0.06,
    }),
    "kl_per_channel": ("AutoencoderKL", {
        "down_block_types": DOWN, "up_block_types": UP, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "latent_channels": 4, "scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD,
    }),
    "tiny": ("AutoencoderTiny", {
        "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1), "latent_channels": 4,
    }),
    "dc": ("AutoencoderDC", {
        "latent_channels": 4, "attention_head_dim": 2, "encoder_block_types": BLOCKS, "decoder_block_types": BLOCKS,
        "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1), "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)), "scaling_factor": 0.41407,
    }),
    "cogvideox": ("AutoencoderKLCogVideoX", {
        "block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
        "scaling_factor": 0.7,
    }),
    "hunyuan": ("AutoencoderKLHunyuanVideo", {
        "block_out_channels": (8, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
    }),
    "ltx": ("AutoencoderKLLTXVideo", {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5,
        "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False), "patch_size": 2,
    }),
    "ltx_0.9.1": ("AutoencoderKLLTXVideo", {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8),
        "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 4,
        "spatio_temporal_scaling": (True, True, True, False), "decoder_spatio_temporal_scaling": (True, True, True),
        "decoder_inject_noise": (True, True, True, False), "upsample_residual": (True, True, True),
        "upsample_factor": (1, 1, 1), "timestep_conditioning": True, "patch_size": 1,
    }),
    "mochi": ("AutoencoderKLMochi", {
        "encoder_block_out_channels": (32, 32, 32, 32), "decoder_block_out_channels": (32, 32, 32, 32),
        "latent_channels": 4, "layers_per_block": (1,) * 5, "latents_mean": MEAN, "latents_std": STD,
    }),
    "wan": ("AutoencoderKLWan", {
        "base_dim": 3, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "latents_mean": MEAN,
        "latents_std": STD,
    }),
}  # fmt: skip

STRIDES = {
    "kl": (1, 2, 2), "kl_per_channel": (1, 2, 2), "tiny": (1, 2, 2), "dc": (1, 2, 2), "cogvideox": (4, 8, 8),
    "hunyuan": (4, 8, 8), "ltx": (4, 8, 8), "ltx_0.9.1": (8, 8, 8), "mochi": (6, 8, 8), "wan": (4, 8, 8),
}  # fmt: skip
IMAGE = ("kl", "kl_per_channel", "tiny", "dc")


def save(folder: Path, name: str) -> Any:
    cls, config = MODELS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, cls)(**config).eval()
    if "ltx" in name:
        model.latents_mean.copy_(torch.tensor(MEAN))
        model.latents_std.copy_(torch.tensor(STD))
    for key, parameter in model.named_parameters():
        if "per_channel_scale" in key:  # of the decoder's own noise, which starts at zero
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


def build(folder: Path | str, **keys: object) -> Autoencoder:
    return build_autoencoder(AutoencoderConfig(name="diffusers", model=str(folder), **keys))  # type: ignore[arg-type]


def per_channel(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)


NORMALIZE: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda z: (z - 0.06) * 1.5,
    "kl_per_channel": lambda z: (z - per_channel(MEAN)) * 0.5 / per_channel(STD),
    "tiny": lambda z: z,
    "dc": lambda z: z * 0.41407,
    "cogvideox": lambda z: z * 0.7,
    "hunyuan": lambda z: z * 0.476986,
    "ltx": lambda z: (z - per_channel(MEAN)) / per_channel(STD),
    "ltx_0.9.1": lambda z: (z - per_channel(MEAN)) / per_channel(STD),
    "mochi": lambda z: (z - per_channel(MEAN)) / per_channel(STD),
    "wan": lambda z: (z - per_channel(MEAN)) / per_channel(STD),
}
"""What each model's pipeline in diffusers does; read there, and written here once more."""


@pytest.mark.parametrize("name", MODELS)
def test_latents_and_pixels_are_those_of_diffusers(name: str, tmp_path: Path) -> None:
    model, autoencoder = save(tmp_path, name), build(tmp_path, frames_per_chunk=4)
    assert (autoencoder.stride, autoencoder.channels, autoencoder.causal) == (STRIDES[name], 4, name not in IMAGE)
    frames = 3 if name in IMAGE else autoencoder.frame_step * 2 + 1
    torch.manual_seed(1)
    pixels = torch.rand(2, 3, frames, 32, 48) * 2 - 1
    latents, std = autoencoder.encode(pixels)
    grid = latent_grid(Grid(frames, 32, 48), autoencoder)
    assert latents.shape[2:] == grid
    decoded = autoencoder.decode(latents)
    assert decoded.shape == pixels.shape
    assert pixel_grid(grid, autoencoder) == pixels.shape[2:]
    assert torch.equal(decoded, autoencoder.decode(latents))

    with torch.no_grad():
        if name in IMAGE:
            images = rearrange(pixels, "b c f h w -> (b f) c h w")
            posterior = model.encode(images)[0]
            has_std = not isinstance(posterior, Tensor)
            z = posterior.mode() if has_std else posterior
            raw = rearrange(model.decode(z).sample, "(b f) c h w -> b c f h w", b=2)
            z = rearrange(z, "(b f) c h w -> b c f h w", b=2)
            deviation = rearrange(posterior.std, "(b f) c h w -> b c f h w", b=2) if has_std else None
        else:
            z, deviation = (model.encode(pixels[1:]).latent_dist.mode(), model.encode(pixels[1:]).latent_dist.std)
            std = std[1:]
            torch.manual_seed(0)
            raw = model.decode(z, *([torch.zeros(1)] if name == "ltx_0.9.1" else [])).sample
            latents, decoded = latents[1:], decoded[1:]
    torch.testing.assert_close(latents, NORMALIZE[name](z), atol=1e-4, rtol=1e-4)
    assert (std is None) == (deviation is None) == (name in ("tiny", "dc"))
    if std is not None:  # normalizing is linear, so that a deviation is the way from the mean to one above it
        away = NORMALIZE[name](z + deviation) - NORMALIZE[name](z)
        torch.testing.assert_close(std, away, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded, raw, atol=1e-4, rtol=1e-4)
    assert raw.std() > 1e-3  # else nothing was compared


@pytest.mark.parametrize(
    ("name", "frames", "fitting"),
    [("wan", 8, "4k . 1 frames: use 5 or 9"), ("hunyuan", 2, "use 1 or 5"), ("ltx_0.9.1", 16, "8k . 1 .* 9 or 17"),
     ("mochi", 6, "6k . 1 frames: use 1 or 7"), ("cogvideox", 5, "8k . 1 frames: use 1 or 9")],
)  # fmt: skip
def test_a_clip_of_other_frames_is_refused_with_those_that_fit(
    name: str, frames: int, fitting: str, tmp_path: Path
) -> None:
    save(tmp_path, name)
    with pytest.raises(UserError, match=f"frames is {frames}, and this autoencoder takes.*{fitting}"):
        build(tmp_path).encode(torch.zeros(1, 3, frames, 32, 32))


def test_one_frame_is_a_clip_for_a_video_model(tmp_path: Path) -> None:
    save(tmp_path, "wan")
    autoencoder = build(tmp_path)
    latents, _ = autoencoder.encode(torch.zeros(1, 3, 1, 32, 32))
    assert latents.shape == (1, 4, 1, 4, 4)
    assert autoencoder.decode(latents).shape == (1, 3, 1, 32, 32)


def test_a_pipeline_s_folder_is_enough(tmp_path: Path) -> None:
    model = save(tmp_path / "vae", "kl")
    (tmp_path / "model_index.json").write_text("{}")
    pixels = torch.rand(1, 3, 1, 8, 8)
    expected = NORMALIZE["kl"](model.encode(pixels[:, :, 0]).latent_dist.mode()[:, :, None])
    torch.testing.assert_close(build(tmp_path).encode(pixels).mean, expected.detach())


def test_bf16_gives_about_the_same_in_float32(tmp_path: Path) -> None:
    save(tmp_path, "kl")
    pixels = torch.rand(1, 3, 2, 16, 16)
    both = build(tmp_path).encode(pixels), build(tmp_path, dtype="bf16").encode(pixels)
    for exact, rounded in zip(*both, strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (exact - rounded).abs().max() < 0.05


def test_what_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"names gone/nowhere, .*'hf download gone/nowhere'.*oder.name=\"pixel\""):
        build("gone/nowhere")
    with pytest.raises(UserError, match=r"names /gone, .*there is no such folder.*name=\"pixel\" or \"haar"):
        build("/gone")
    diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "vq")
    with pytest.raises(UserError, match=r"which is a VQModel: use one of AutoencoderKL, AutoencoderTiny"):
        build(tmp_path / "vq")
    model = save(tmp_path / "torn", "kl")
    weights = load_file(tmp_path / "torn/diffusion_pytorch_model.safetensors")
    del weights["decoder.conv_in.weight"]
    save_file(weights, tmp_path / "torn/diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"torn, whose files lack 1 of .*such as decoder.conv_in.weight: fetch"):
        build(tmp_path / "torn")
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(UserError, match=r"pickled, which cannot be loaded from a config and safetensors"):
        build(tmp_path / "pickled")


@pytest.mark.parametrize(("folder", "size"), [("camera-128", 128), ("emoji-128", 64)])
def test_taesd3_gives_clips_back(folder: str, size: int, taesd3: Path, assets: Path) -> None:
    """Its weights are known to give about 31 dB on these, the emoji halved by antialiased bicubic interpolation."""
    autoencoder = build(taesd3)
    config = DataConfig(fps=5, num_frames=2, height=128, width=128)
    ratios = []
    for path in sorted((assets / folder / "clips").glob("*.mp4"))[::60][:24]:
        images = torch.from_numpy(next(read_windows(path, config)).frames).permute(0, 3, 1, 2) / 127.5 - 1
        if size < 128:
            images = interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        pixels = rearrange(images, "f c h w -> 1 c f h w")
        error = (autoencoder.decode(autoencoder.encode(pixels).mean).clamp(-1, 1) - pixels).square().mean()
        ratios.append(10 * torch.log10(2**2 / error))
    assert torch.stack(ratios).mean() > 30
