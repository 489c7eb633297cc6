"""Image and video autoencoders of the diffusers library.

Latents are normalized as the model's own pipeline does it: (z - mean) * scaling_factor / std, with what the model's
config has of these, per channel where it does; the deviation of the posterior is scaled alike. Pixels are in [-1, 1]
for all of them; AutoencoderTiny, made for [0, 1], converts by itself.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from einops import rearrange
from torch import Tensor

from video_dit.config import AutoencoderConfig
from video_dit.contracts import Posterior
from video_dit.errors import UserError
from video_dit.precision import DTYPES
from video_dit.pretrained import Source, explained, refuse_missing
from video_dit.shapes import Grid, latent_grid, pixel_grid

_KEY = "autoencoder.model"
_DEFAULT = 'autoencoder.name="pixel" or "haar"'

_IMAGE_STRIDES: dict[str, Callable[[Any], int]] = {
    "AutoencoderKL": lambda model: 2 ** (len(model.config.block_out_channels) - 1),
    "AutoencoderTiny": lambda model: 2 ** (len(model.config.encoder_block_out_channels) - 1),
    "AutoencoderDC": lambda model: model.spatial_compression_ratio,
}
_VIDEO_STRIDES: dict[str, Callable[[Any], tuple[int, int]]] = {
    "AutoencoderKLCogVideoX": lambda model: (
        model.config.temporal_compression_ratio,
        2 ** (len(model.config.block_out_channels) - 1),
    ),
    "AutoencoderKLHunyuanVideo": lambda model: (model.temporal_compression_ratio, model.spatial_compression_ratio),
    "AutoencoderKLLTXVideo": lambda model: (model.temporal_compression_ratio, model.spatial_compression_ratio),
    "AutoencoderKLMochi": lambda model: (model.temporal_compression_ratio, model.spatial_compression_ratio),
    "AutoencoderKLWan": lambda model: (model.config.scale_factor_temporal, model.config.scale_factor_spatial),
}


class DiffusersAutoencoder:
    """A pretrained autoencoder. Those of images see each frame alone, and some frames at a time.

    Args:
        config: the [autoencoder] table.
        device: where to compute.

    Raises:
        UserError: the model is not there, or is none of the above.
    """

    def __init__(self, config: AutoencoderConfig, device: torch.device) -> None:
        self._model = _load(config)
        self._frames_per_chunk = config.frames_per_chunk
        kind = type(self._model).__name__
        self._is_video = kind in _VIDEO_STRIDES
        time, space = _VIDEO_STRIDES[kind](self._model) if self._is_video else (1, _IMAGE_STRIDES[kind](self._model))
        self.stride = (time, space, space)
        self.causal = self._is_video
        # CogVideoX's decoder tells a first frame from its followers by an odd number of latent frames.
        self.frame_step = 2 * time if kind == "AutoencoderKLCogVideoX" else time
        # The others see frames alone or have a cache; HunyuanVideo blends windows of its own.
        self.streams = kind not in ("AutoencoderKLLTXVideo", "AutoencoderKLMochi")
        settings = self._model.config
        self.channels: int = settings.z_dim if kind == "AutoencoderKLWan" else settings.latent_channels
        self._mean, self._scale = _statistics(self._model)
        self.to(device)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Posterior:
        """The posterior, normalized, in float32. AutoencoderTiny and DC have no deviation.

        Raises:
            UserError: the autoencoder does not take clips of this size.
        """
        latent_grid(Grid(*pixels.shape[2:]), self)
        mean, std = Posterior.of_joined(self._in_chunks(self._encode, pixels.to(self._model.device)), self.channels)
        return Posterior((mean - self._mean) * self._scale, None if std is None else std * self._scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """float32.

        Raises:
            UserError: the autoencoder has no clips of this many latent frames.
        """
        pixel_grid(Grid(*latents.shape[2:]), self)
        return self._in_chunks(self._decode, latents.to(self._model.device) / self._scale + self._mean)

    def to(self, device: torch.device) -> None:
        self._model.to(device)
        self._mean, self._scale = self._mean.to(device), self._scale.to(device)

    def _in_chunks(self, function: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
        """A clip at a time for video models, some frames at a time for those of images."""
        clips = clips.to(self._model.dtype)
        if self._is_video:
            return torch.cat([function(clip).float() for clip in clips.split(1)])
        frames = rearrange(clips, "b c f h w -> (b f) c h w").split(self._frames_per_chunk)
        done = torch.cat([function(chunk).float() for chunk in frames])
        return rearrange(done, "(b f) c h w -> b c f h w", b=len(clips))

    def _encode(self, pixels: Tensor) -> Tensor:
        posterior = self._model.encode(pixels)[0]
        return posterior if isinstance(posterior, Tensor) else Posterior(posterior.mean, posterior.std).joined()

    def _decode(self, latents: Tensor) -> Tensor:
        conditioned = self._model.config.get("timestep_conditioning", False)
        timestep = [latents.new_zeros(len(latents))] if conditioned else []  # LTX-Video's: nothing left to denoise
        with torch.random.fork_rng([latents.device] if latents.is_cuda else []):
            torch.manual_seed(0)  # LTX-Video's decoder adds noise of its own
            return self._model.decode(latents, *timestep).sample


def _load(config: AutoencoderConfig) -> Any:
    assert config.model is not None
    with explained(_KEY, config.model, _DEFAULT):
        source, kind = _find(Source.parse(config.model))
        if kind not in {*_IMAGE_STRIDES, *_VIDEO_STRIDES}:
            raise UserError(
                f"{_KEY} names {config.model}, which is a {kind}: use one of "
                f"{', '.join([*_IMAGE_STRIDES, *_VIDEO_STRIDES])}"
            )
        model, info = getattr(diffusers, kind).from_pretrained(
            source.name,
            torch_dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,  # else it asks for one more library
            **source.options,
        )
    refuse_missing(_KEY, config.model, set(info["missing_keys"]))
    return model.eval().requires_grad_(False)


def _find(source: Source) -> tuple[Source, str]:
    """The autoencoder's folder and class: itself, or vae/ of a pipeline."""
    try:
        return source, diffusers.AutoencoderKL.load_config(source.name, **source.options)["_class_name"]
    except OSError:
        if source.subfolder:
            raise
        inside = source.inside("vae")
        return inside, diffusers.AutoencoderKL.load_config(inside.name, **inside.options)["_class_name"]


def _statistics(model: Any) -> tuple[Tensor, Tensor]:
    """What is taken off the latents, and what then multiplies them; [C, 1, 1, 1] or a single number."""
    settings, buffers = model.config, dict(model.named_buffers())  # LTX-Video has them among its weights
    mean = buffers.get("latents_mean", settings.get("latents_mean") or [settings.get("shift_factor") or 0.0])
    std = buffers.get("latents_std", settings.get("latents_std") or [1.0])
    mean, std = (torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1) for values in (mean, std))
    return mean, settings.get("scaling_factor", 1.0) / std
