"""VideoPipeline: prompts in, frames out."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from video_dit.config import Autocast, Config, with_changes
from video_dit.contracts import ClipInfo, EncodedShape, TextCondition
from video_dit.diffusion import Denoiser
from video_dit.diffusion.guidance import Guidance, guided_velocity
from video_dit.diffusion.processes import build_process
from video_dit.diffusion.solvers import solve
from video_dit.diffusion.timesteps import sampling_times, shift_for
from video_dit.encoders import build_autoencoder, build_text_encoder, truncation_warning
from video_dit.encoders.fingerprint import check_encoders
from video_dit.errors import UserError
from video_dit.frames import from_uint8, to_uint8
from video_dit.models import build_model
from video_dit.models.step_cache import StepCache
from video_dit.models.weights import check_weights, merge_adapters, read_parts
from video_dit.precision import autocast
from video_dit.run_folder import RunFolder, TrainingData
from video_dit.sampling.extrapolation import SamplingWarning, extrapolations
from video_dit.sampling.given_frames import checked_frames
from video_dit.sampling.offload import offload_blocks
from video_dit.sampling.plan import Plan, Window, plan_clip, still_length
from video_dit.shapes import latent_grid


class _Batch(NamedTuple):
    """Clips that are made together.

    text, negative_text: B rows.
    generators: B, of the noise.
    beginning: uint8 [B, F, H, W, 3] with F from 0 on, what is given at the beginning.
    end: alike, at the end.
    """

    text: TextCondition
    negative_text: TextCondition
    generators: list[Generator]
    beginning: Tensor
    end: Tensor


class _Given(NamedTuple):
    """Latent frames of a window that are given: which they are, [F] bool, and the latents [B, C, F, H, W] there."""

    mask: Tensor
    latents: Tensor

    def hold(self, x: Tensor) -> Tensor:
        return torch.where(self.mask[:, None, None], self.latents, x)


class VideoPipeline:
    """A trained model with its encoders.

    Args:
        config: of the run.
        weights: of the model.
        data: what the run was trained on.
        device: where to compute.
        precision: "fp32", or that of products under autocast; None: as in training.
        compile: hands each block of the model to torch.compile: slow at first, then faster.
        offload: the blocks' weights wait in CPU memory, and each block is on the device only while it runs.
        tile_size: latent cells (time, height, width) that the autoencoder decodes at a time; None: as in the config.
        weights_file: where the weights are from.

    Attributes:
        config: of the run, with the clip of [data] one that it was trained on.
        run: the folder that `from_run` has read.

    Raises:
        UserError: the weights are of another model.
    """

    def __init__(
        self,
        config: Config,
        weights: dict[str, Tensor],
        data: TrainingData,
        device: torch.device,
        *,
        precision: Autocast | None = None,
        compile: bool = False,
        offload: bool = False,
        tile_size: tuple[int, int, int] | None = None,
        weights_file: Path | None = None,
    ) -> None:
        if tile_size is not None:
            overlap = tuple(min(o, t // 2) for o, t in zip(config.autoencoder.tile_overlap, tile_size, strict=True))
            config = with_changes(config, "autoencoder", {"tile_size": tile_size, "tile_overlap": overlap})
        config = config.model_copy(update={"data": data.usual_clip(config.data)})
        self.run: Path | None = None
        self.weights_file = weights_file
        self.config = config
        self.device = device
        self.precision = precision or config.training.precision
        self.autoencoder = build_autoencoder(config.autoencoder, device)
        self.text_encoder = build_text_encoder(config.text_encoder)
        self._texts: dict[str, TextCondition] = {}
        self._makes_room = bool(config.text_encoder.models) and not offload  # for a text encoder that has weights
        encoded = EncodedShape.of(config.data.grid, self.autoencoder, self.text_encoder)
        self.model = build_model(config, encoded._replace(grid=data.grid))
        check_weights(weights, self.model.state_dict(), str(weights_file or "weights"))
        self.model.load_state_dict(weights)
        self.model.eval().requires_grad_(False)
        if offload:
            offload_blocks(self.model, self.model.backbone.all_blocks, device)
        else:
            self.model.to(device)
        if compile:
            self.model.backbone.compile_blocks()
        self.step_cache = StepCache(self.model.backbone)
        self.model.backbone = self.step_cache

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        device: str | torch.device | None = None,
        *,
        weights: str | Path | None = None,
        **options: Any,
    ) -> "VideoPipeline":
        """Loads the averaged weights of a run folder, or an exported model.

        Args:
            run: the folder.
            device: where to compute; None takes a GPU when there is one.
            weights: a safetensors file, relative to the folder; None: the newest averaged weights.
            options: see `VideoPipeline`.

        Raises:
            ConfigError: this is not a run folder, or it has no checkpoint yet.
            UserError: an encoder that the config names is not the one that the data was made with, or the weights are
                of another model.
        """
        folder = RunFolder(Path(run))
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        config, data = folder.load_config(), folder.load_data()
        check_encoders(config, data.fingerprints, str(folder.path))
        file = folder.path / weights if weights is not None else folder.averaged_weights()
        if not file.exists():
            raise UserError(f"{file}: there are no such weights; the run may have gone on and removed this checkpoint")
        whole = merge_adapters(read_parts(file, folder.frozen_weights, "weights"), config.lora)
        pipeline = cls(config, whole, data, device, weights_file=file, **options)
        for told in check_encoders(config, data.fingerprints, str(folder.path)):  # now that all have been fetched
            warnings.warn(told, SamplingWarning, stacklevel=2)
        pipeline.run = folder.path
        return pipeline

    @torch.inference_mode()
    def __call__(
        self,
        prompts: str | Sequence[str],
        seed: int | Sequence[int] = 0,
        *,
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        image: Tensor | None = None,
        last_image: Tensor | None = None,
        video: Tensor | None = None,
        window: int | None = None,
        overlap: int | None = None,
        batch_size: int = 16,
        on_step: Callable[[int], None] | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Generates a clip per prompt. A clip depends on its prompt, seed and settings alone, up to rounding.

        Args:
            prompts: one or several.
            seed: of the noise; one for all prompts, or one for each.
            negative_prompt: what guidance moves away from; one for all, or one for each.
            num_frames, height, width: size in pixels; None: as in training, and after a video one window more.
            fps: frames per second, for a model that is told; None: as in training.
            image: the first frame, uint8 [H, W, 3] or [B, H, W, 3]; it stands still for as many frames as have to be
                given together (see `plan_clip`), which is one where neither autoencoder nor patches join frames.
            last_image: the last frame, alike.
            video: what to go on from, uint8 [F', H, W, 3] or [B, F', H, W, 3]; the clip begins with it.
            window, overlap: see `plan_clip`.
            batch_size: clips that are computed together.
            on_step: called with the number of clips after each solver step of these clips.
            sampling: keys of the config's [sampling], such as num_steps, guidance_scale or solver; others as there.

        Returns:
            uint8 [B, F, H, W, 3].

        Raises:
            UserError: the size does not fit, frames cannot be given as asked, or a key or value of `sampling` is wrong.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = list(seed) if isinstance(seed, Sequence) else [int(seed)] * len(prompts)
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if not prompts or batch_size < 1 or not len(prompts) == len(seeds) == len(negatives):
            raise UserError(
                f"there are {len(prompts)} prompts, {len(seeds)} seeds and {len(negatives)} negative prompts, and "
                f"batch_size is {batch_size}: give one prompt or more, a seed and a negative prompt for all or each, "
                "and a batch_size from 1 on"
            )
        config = with_changes(self.config, "sampling", sampling)
        plan = self.plan(
            num_frames=num_frames,
            height=height,
            width=width,
            fps=fps,
            window=window,
            overlap=overlap,
            image=image is not None,
            last_image=last_image is not None,
            video_frames=0 if video is None else video.shape[-4],
        )

        def frames(what: str, given: Tensor | None, repeats: int = 1) -> Tensor:
            """uint8 [B, F, H, W, 3], with no frames where nothing is given."""
            if given is None:
                return torch.empty(len(prompts), 0, plan.window.height, plan.window.width, 3, dtype=torch.uint8)
            return checked_frames(given, plan.window, what, len(prompts)).repeat(1, repeats, 1, 1, 1)

        first = image if image is None else image.unsqueeze(-4)
        last = last_image if last_image is None else last_image.unsqueeze(-4)
        beginning = frames("image", first, plan.num_known) if video is None else frames("video", video)
        end = frames("last_image", last, plan.num_last)
        self.encode_prompts([*prompts, *negatives])

        clips = []
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            texts = [self._text(prompts[rows]), self._text(negatives[rows])]
            generators = [Generator().manual_seed(number) for number in seeds[rows]]
            batch = _Batch(*texts, generators, beginning[rows], end[rows])
            clips.append(self._make(config, plan, batch, on_step))
        return torch.cat(clips)

    def plan(self, **settings: Any) -> Plan:
        """The plan of a clip with these settings, as `plan_clip` takes them; warns where the model has to extrapolate.

        Raises:
            UserError: the size does not fit, or frames cannot be given as asked.
        """
        plan = plan_clip(self.config, self.autoencoder, **settings)
        diffusion = self.config.diffusion
        if plan.gives_frames and not (diffusion.gives_frames or diffusion.per_frame_noise):
            told = "frames are given to a model that never saw any in training (diffusion.first_frame, continuation)"
            warnings.warn(told, SamplingWarning, stacklevel=1)
        positions = self.model.position_embedding
        positions.check_fits(plan.tokens)
        for told in extrapolations(self.config, positions.trained_grid, plan.tokens, plan.fps):
            warnings.warn(told, SamplingWarning, stacklevel=1)
        return plan

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> None:
        """Encodes prompts before they are asked for, and moves the text encoder to CPU memory again.

        A pretrained one has the device to itself meanwhile. Each prompt is encoded by itself, and so does not depend on
        others; remembered are those of the last call that had something new. Warns where a prompt is cut.
        """
        if all(prompt in self._texts for prompt in prompts):
            return
        if self._makes_room:
            self.model.to("cpu")
        self.text_encoder.to(self.device)
        remembered = self._texts
        self._texts = {}
        for prompt in dict.fromkeys(prompts):
            if prompt not in remembered:
                remembered[prompt] = self.text_encoder.encode([prompt]).to("cpu")
                self.warn_if_cut(prompt)
            self._texts[prompt] = remembered[prompt]
        self.text_encoder.to(torch.device("cpu"))
        if self._makes_room:
            self.model.to(self.device)

    def warn_if_cut(self, prompt: str) -> None:
        """Where the text encoder does not read all of a prompt."""
        if told := truncation_warning(self.text_encoder, prompt):
            warnings.warn(told, SamplingWarning, stacklevel=1)

    def _text(self, prompts: list[str]) -> TextCondition:
        rows = [self._texts[prompt] for prompt in prompts]
        return TextCondition(*map(torch.cat, zip(*rows, strict=True))).to(self.device)

    def _make(self, config: Config, plan: Plan, batch: _Batch, on_step: Callable[[int], None] | None) -> Tensor:
        """The clips of a batch, window by window: uint8 [B, F, H, W, 3] on the CPU."""
        clip = batch.beginning
        latents: Tensor | None = None
        for window in plan.windows:
            given = self._given(plan, window, clip, latents, batch.end)
            latents = self._sample(config, plan, batch, given, on_step)
            pixels = torch.cat([to_uint8(self.autoencoder.decode(one[None])).cpu() for one in latents])
            clip = torch.cat((clip, pixels[:, window.overlap :]), dim=1)
        return torch.cat((clip[:, : plan.num_frames - plan.num_last], batch.end), dim=1)

    def _given(self, plan: Plan, window: Window, clip: Tensor, previous: Tensor | None, end: Tensor) -> _Given | None:
        """What a window is given: of the clip so far, whose last window had the latents `previous`, and at its end."""
        shape = (len(clip), self.autoencoder.channels, *plan.latents)
        given = _Given(torch.zeros(plan.latents.frames, dtype=torch.bool), torch.zeros(shape))
        if window.overlap:
            num_latents = latent_grid(plan.window._replace(frames=window.overlap), self.autoencoder).frames
            if previous is None or self.autoencoder.causal:  # whose first latent frame is unlike the others
                overlapping = self._encode(clip[:, window.start : window.start + window.overlap])
            else:
                overlapping = previous[:, :, -num_latents:]
            given.mask[:num_latents] = True
            given.latents[:, :, :num_latents] = overlapping.cpu()
        if plan.num_last:
            num_latents = plan.num_last // self.autoencoder.stride[0]
            still = end[:, :1].repeat(1, still_length(self.autoencoder, plan.window, plan.num_last), 1, 1, 1)
            given.mask[-num_latents:] = True
            given.latents[:, :, -num_latents:] = self._encode(still)[:, :, -num_latents:].cpu()
        return _Given(*(tensor.to(self.device) for tensor in given)) if given.mask.any() else None

    def _encode(self, frames: Tensor) -> Tensor:
        """uint8 [B, F, H, W, 3] to the means of the latents, clip by clip."""
        pixels = from_uint8(frames).to(self.device)
        return torch.cat([self.autoencoder.encode(one[None]).mean for one in pixels])

    def _sample(
        self, config: Config, plan: Plan, batch: _Batch, given: _Given | None, on_step: Callable[[int], None] | None
    ) -> Tensor:
        """The latents of a window, [B, C, F, H, W]."""
        sampling, diffusion = config.sampling, config.diffusion
        process = build_process(diffusion)
        shape = (self.autoencoder.channels, *plan.latents)

        def draw_noise(*_: Tensor) -> Tensor:
            """On the CPU, so that a seed means the same noise on every device."""
            return torch.stack([torch.randn(shape, generator=own) for own in batch.generators]).to(self.device)

        def report(_: int) -> None:
            if on_step is not None:
                on_step(len(batch.generators))

        self.step_cache.start(sampling.step_cache)
        velocity = guided_velocity(
            self._denoiser(plan, given),
            batch.text,
            batch.negative_text,
            Guidance.of(sampling),
            process,
            diffusion.prediction,
            diffusion.min_t,
            None if given is None else ~given.mask,
        )
        shift = sampling.shift or shift_for(plan.tokens.size, diffusion)
        times = sampling_times(process, sampling.num_steps, shift, sampling.spacing, sampling.zero_init)
        for _ in range(sampling.num_steps + 1 - len(times)):
            report(0)  # of what zero_init leaves out
        latents = solve(
            velocity,
            draw_noise(),
            times,
            process,
            sampling.solver,
            draw_noise=draw_noise,
            keep=None if given is None else given.hold,
            on_step=report,
        )
        self.step_cache.start(0.0)  # whoever asks the model next, such as a measure of its loss, has all blocks run
        return latents

    def _denoiser(self, plan: Plan, given: _Given | None) -> Denoiser:
        """The model as a function of x_t, t and the text alone."""
        has_mask = self.config.model.given_frames

        def denoise(x_t: Tensor, t: Tensor, text: TextCondition) -> Tensor:
            mask = None
            if given is not None and has_mask:
                mask = given.mask.expand(len(x_t), -1)
            elif given is not None:
                whole_tokens = given.mask.view(-1, self.config.model.patch_size[0]).all(-1)
                t = torch.where(whole_tokens, 0, t[:, None])
            info = ClipInfo(  # a source of just this size, of which nothing is cut
                fps=x_t.new_full((len(x_t),), plan.fps),
                size=x_t.new_tensor(plan.window[1:]).repeat(len(x_t), 1),
                crop=x_t.new_zeros(len(x_t), 2),
            )
            self.step_cache.asked_by(text)
            with autocast(self.device, self.precision):
                output: Tensor = self.model(x_t, t, text, info, mask)
            return output.float()

        return denoise
