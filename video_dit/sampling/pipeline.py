"""VideoPipeline: prompts in, frames out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from video_dit.config import Config, Solver
from video_dit.contracts import ClipInfo, EncodedShape, TextCondition
from video_dit.diffusion.guidance import Guidance, guided_velocity
from video_dit.diffusion.processes import build_process
from video_dit.diffusion.solvers import solve
from video_dit.diffusion.timesteps import sampling_times, shift_for
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.models import build_model
from video_dit.run_folder import RunFolder
from video_dit.shapes import Grid, latent_grid, token_grid


class VideoPipeline:
    """A trained model with its encoders."""

    def __init__(self, config: Config, weights: dict[str, Tensor], device: torch.device) -> None:
        self.config = config
        self.device = device
        self.autoencoder = build_autoencoder(config.autoencoder, device)
        self.text_encoder = build_text_encoder(config.text_encoder, device)
        encoded = EncodedShape.of(config.data.grid, self.autoencoder, self.text_encoder)
        self.model: nn.Module = build_model(config, encoded)
        self.model.load_state_dict(weights)
        self.model.to(device).eval().requires_grad_(False)

    @classmethod
    def from_run(cls, run: str | Path, device: str | torch.device | None = None) -> "VideoPipeline":
        """Loads the newest averaged weights of a run folder.

        Args:
            run: the folder.
            device: where to compute; None takes a GPU when there is one.

        Raises:
            ConfigError: this is not a run folder, or it has no checkpoint yet.
        """
        folder = RunFolder(Path(run))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(folder.load_config(), load_file(folder.averaged_weights()), torch.device(device))

    @torch.inference_mode()
    def __call__(
        self,
        prompts: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        solver: Solver | None = None,
        negative_prompt: str = "",
        batch_size: int = 16,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Generates a clip per prompt. A clip depends on its prompt, seed and settings alone, up to rounding.

        Args:
            prompts: one or several.
            seed: of the initial noise; one for all prompts, or one for each.
            num_frames, height, width: size in pixels; None as in training.
            num_steps, guidance_scale, solver: None as in the config's [sampling].
            negative_prompt: what guidance moves away from.
            batch_size: clips that are computed together.
            on_step: called with the number of clips after each solver step of these clips.

        Returns:
            uint8 [B, F, H, W, 3].

        Raises:
            UserError: the size does not fit the autoencoder and the patches.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        latents_grid = self._latent_grid(num_frames, height, width)
        sampling, process = self.config.sampling, build_process(self.config.diffusion)
        tokens = token_grid(latents_grid, self.config.model.patch_size)
        shift = sampling.shift or shift_for(tokens.size, self.config.diffusion)
        guidance = Guidance.of(sampling)
        clips = []
        for start in range(0, len(prompts), batch_size):
            batch_prompts = prompts[start : start + batch_size]
            noise = self._noise(seeds[start : start + batch_size], latents_grid)
            velocity = guided_velocity(
                self._denoise,
                self.text_encoder.encode(batch_prompts).to(self.device),
                self.text_encoder.encode([negative_prompt] * len(batch_prompts)).to(self.device),
                replace(guidance, scale=sampling.guidance_scale if guidance_scale is None else guidance_scale),
                process,
                self.config.diffusion.prediction,
                self.config.diffusion.min_t,
            )

            def report(_: int, num_clips: int = len(batch_prompts)) -> None:
                if on_step is not None:
                    on_step(num_clips)

            latents = solve(
                velocity,
                noise,
                sampling_times(process, num_steps or sampling.num_steps, shift, sampling.spacing),
                process,
                solver or sampling.solver,
                on_step=report,
            )
            clips.append(to_uint8(self.autoencoder.decode(latents)).cpu())
        return torch.cat(clips)

    def _latent_grid(self, num_frames: int | None, height: int | None, width: int | None) -> Grid:
        trained = self.config.data.grid
        pixels = Grid(num_frames or trained.frames, height or trained.height, width or trained.width)
        grid = latent_grid(pixels, self.autoencoder)
        token_grid(grid, self.config.model.patch_size)
        return grid

    def _noise(self, seeds: Sequence[int], grid: Grid) -> Tensor:
        """Drawn on the CPU, so that a seed means the same noise on every device."""
        shape = (self.autoencoder.channels, *grid)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise).to(self.device)

    def _denoise(self, x_t: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        bf16 = self.config.training.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            output: Tensor = self.model(x_t, t, text, self._clip_info(x_t))
        return output.float()

    def _clip_info(self, x_t: Tensor) -> ClipInfo:
        """What a model that is conditioned on it is asked for: a source of just this size, of which nothing is cut."""
        num_clips, scale = len(x_t), self.autoencoder.stride[1:]
        size = x_t.new_tensor([length * step for length, step in zip(x_t.shape[3:], scale, strict=True)])
        return ClipInfo(
            fps=x_t.new_full((num_clips,), self.config.data.fps),
            size=size.repeat(num_clips, 1),
            crop=x_t.new_zeros(num_clips, 2),
        )


def to_uint8(pixels: Tensor) -> Tensor:
    """[B, 3, F, H, W] in [-1, 1] to uint8 [B, F, H, W, 3]; what is outside is clamped."""
    levels = (pixels.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return rearrange(levels, "b c f h w -> b f h w c")
