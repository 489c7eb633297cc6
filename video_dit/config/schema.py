"""Every key of a config, with its type, default and meaning. No default of a run lives anywhere else."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from video_dit.errors import UserError
from video_dit.shapes import Grid, split_head, token_grid

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PatchSize = tuple[Count, Count, Count]
Prediction = Literal["velocity", "data", "noise"]
Solver = Literal["euler", "heun", "dpmpp_2m", "unipc", "stochastic_euler"]
GuidanceMethod = Literal["cfg", "cfg_zero_star", "apg"]
Backbone = Literal["mmdit", "dit", "cross_dit", "u_vit"]
QKNorm = Literal["none", "rms", "layer"]
PositionTable = Literal["none", "sincos", "learned"]
Precision = Literal["fp32", "bf16"]

PRESETS = {
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""DiT's sizes (Peebles and Xie 2022, arXiv 2212.09748, table 1)."""

AUTOENCODER_STRIDES = {"pixel": (1, 1, 1), "haar": (2, 2, 2)}
"""Of those without weights; the others' are in the model's own config."""

_ONLY_FOR = {
    "text_qk_norm": ("mmdit",),
    "dual_attention_blocks": ("mmdit",),
    "text_split": ("mmdit",),
    "single_stream_blocks": ("mmdit",),
    "dit_conditioning": ("dit",),
    "attention_pattern": ("mmdit", "dit", "cross_dit"),
}


class Table(BaseModel):
    """A table of the TOML file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Table):
    """What preprocessing makes of a video."""

    fps: Positive = Field(4.0, description="frames per second of the clips")
    num_frames: Count = Field(8, description="frames per clip; a longer video gives several clips, end to end")
    height: Count = Field(32, description="pixels; videos are scaled to cover height x width, then cropped centrally")
    width: Count = Field(32, description="pixels")
    split: str = Field("train", description="take the rows of a manifest whose 'split' is this, or that have none")
    path_column: str = Field("path", description="the manifest's column of video files, relative to the manifest")
    caption_column: str = Field("caption", description="the manifest's column of captions")
    missing_caption: Literal["empty", "drop"] = Field(
        "empty", description="a video without a caption gets an empty one, or is dropped"
    )
    decoder: Literal["pyav", "decord"] = Field(
        "pyav", description="pyav is right on every file that we tried; decord can be faster on plain H.264"
    )
    clips_per_shard: Count = Field(256, description="clips per shard file")

    @property
    def grid(self) -> Grid:
        """Of a clip, in pixels."""
        return Grid(self.num_frames, self.height, self.width)


class AutoencoderConfig(Table):
    """From pixels to latents and back."""

    name: Literal["pixel", "haar", "diffusers"] = Field(
        "pixel",
        description="pixel: the pixels themselves; haar: 2x2x2 wavelets; both lossless, without weights; diffusers: "
        "the pretrained one that autoencoder.model names",
    )
    model: str | None = Field(
        None, description="diffusers: folder or hub name, of an autoencoder or of a pipeline that has one in vae/"
    )
    dtype: Precision = Field("fp32", description="diffusers: of the weights and of what is computed")
    frames_per_chunk: Count = Field(16, description="diffusers: frames that an image autoencoder takes at a time")
    tile_size: PatchSize | None = Field(
        None,
        description="latent cells (time, height, width) that are encoded or decoded at a time, to save memory; time is "
        "cut for LTX-Video and Mochi alone, as the others stream through it; none: the whole clip",
    )
    tile_overlap: tuple[CountOrZero, CountOrZero, CountOrZero] = Field(
        (4, 28, 28), description="latent cells that a tile shares with the next; they blend over its middle quarter"
    )

    @model_validator(mode="after")
    def _check(self) -> "AutoencoderConfig":
        if (self.name == "diffusers") != (self.model is not None):
            raise UserError(
                "autoencoder.model is for autoencoder.name = diffusers, which needs it: name a folder or a model of "
                "the hub, or use autoencoder.name = pixel or haar, which need nothing"
            )
        if self.tile_size and any(o >= t for t, o in zip(self.tile_size, self.tile_overlap, strict=True)):
            raise UserError(
                f"autoencoder.tile_overlap is {list(self.tile_overlap)}, and must be less than "
                f"autoencoder.tile_size = {list(self.tile_size)}"
            )
        return self


class TextEncoderConfig(Table):
    """From prompts to embeddings."""

    name: Literal["hash", "transformers"] = Field(
        "hash",
        description="hash: words by their hashed n-grams, without weights; transformers: the pretrained ones that "
        "text_encoder.models names",
    )
    max_length: Count = Field(16, description="hash: tokens per prompt; longer prompts are cut")
    width: Count = Field(64, description="hash: channels of an embedding")
    models: tuple[str, ...] = Field(
        (),
        description="transformers: folders or hub names, joined as in SD3: CLIPs along channels, others after them",
    )
    max_lengths: tuple[Count, ...] = Field(
        (77,), description="transformers: tokens per prompt, for each model or one for all; longer prompts are cut"
    )
    mask_padding: bool = Field(
        True,
        description="transformers: false gives the padding up to max_lengths as tokens too, as diffusers' SD3 does; "
        "CLIP's always is",
    )
    hidden_layer: int = Field(
        -1, description="transformers: which hidden state of a decoder-only model, such as -1 for the last"
    )
    dtype: Precision = Field("fp32", description="transformers: of the weights and of what is computed")

    @model_validator(mode="after")
    def _check(self) -> "TextEncoderConfig":
        if (self.name == "transformers") != bool(self.models):
            raise UserError(
                "text_encoder.models is for text_encoder.name = transformers, which needs it: name folders or models "
                "of the hub, or use text_encoder.name = hash, which needs nothing"
            )
        if self.models and len(self.max_lengths) not in (1, len(self.models)):
            raise UserError(
                f"text_encoder.max_lengths has {len(self.max_lengths)} numbers for {len(self.models)} models: give one "
                "for each, or one for all"
            )
        others = ("max_length", "width") if self.models else ("max_lengths", "mask_padding", "hidden_layer", "dtype")
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise UserError(f"text_encoder.{key} is not for text_encoder.name = {self.name}: leave it out")
        return self


class ModelConfig(Table):
    """The transformer."""

    name: Backbone = Field(
        "mmdit",
        description="mmdit: separate video and text streams, joint attention; dit: one stream of both; "
        "cross_dit: a video stream that looks at the text; u_vit: one stream with long skip connections",
    )
    preset: Literal["S", "B", "L", "XL", "sd3"] | None = Field(
        None,
        description="sets hidden_size, depth and num_heads as in DiT-S, B, L or XL, unless they are given; "
        "sd3: hidden_size = 64 x depth, num_heads = depth",
    )
    patch_size: PatchSize = Field((2, 4, 4), description="latent cells per token along time, height and width")
    hidden_size: Count = Field(256, description="width of the streams")
    depth: Count = Field(6, description="number of blocks")
    num_heads: Count = Field(4, description="attention heads")
    mlp_ratio: Positive = Field(4.0, description="inner width of the feed-forward layers over hidden_size")

    qk_norm: QKNorm = Field("rms", description="normalization of the video's queries and keys")
    text_qk_norm: QKNorm | None = Field(None, description="of the text's, in mmdit; none (the key left out): the same")
    dual_attention_blocks: tuple[CountOrZero, ...] = Field(
        (), description="mmdit: blocks with a second attention, of the video alone (SD3.5 medium: the first 13)"
    )
    text_split: Count | None = Field(
        None, description="mmdit: text tokens after this many have weights of their own (the paper's third set)"
    )
    single_stream_blocks: CountOrZero = Field(
        0, description="mmdit: so many of the last blocks share their weights between video and text (as in Flux)"
    )
    dit_conditioning: Literal["in_context", "cross_attention", "adaln", "adaln_zero"] = Field(
        "adaln_zero", description="dit: how timestep and pooled text reach the blocks"
    )

    rotary: bool = Field(True, description="turn queries and keys by the tokens' relative place")
    rotary_split: tuple[CountOrZero, CountOrZero, CountOrZero] | None = Field(
        None, description="channels of a head that turn with time, height and width; none: about 1 : 1.5 : 1.5"
    )
    rotary_base: tuple[Positive, Positive, Positive] = Field(
        (100.0, 100.0, 100.0), description="base of the wavelengths along time, height and width"
    )
    rotary_scaling: Literal["none", "interpolation", "ntk"] = Field(
        "none", description="what happens to a clip that is longer or larger than those of [data]"
    )
    spatial_position: PositionTable = Field("sincos", description="added to the tokens by their place in the frame")
    temporal_position: PositionTable = Field(
        "sincos", description="added by their place in time; learned starts at zero"
    )
    position_grid: tuple[Count, Count] | None = Field(
        None,
        description="tokens (height, width) of a grid from whose middle the places in a frame are taken, as in SD3; "
        "none: places count from the corner, and learned ones end where the clips of [data] do",
    )
    position_scale: Positive = Field(1.0, description="distance between neighbouring tokens of a frame")
    reference_fps: Positive | None = Field(
        None,
        description="places in time count tokens of a clip at this rate, so that clips of all rates share one axis; "
        "none: each clip counts its own tokens",
    )

    attention_pattern: Literal["full", "factorised", "window"] = Field(
        "full",
        description="full: all tokens see all; factorised: each block within frames, then one through time at each "
        "place; window: tiles of tokens that see the tiles around them, and the text",
    )
    window_tile: PatchSize = Field((2, 4, 4), description="window: tokens per tile along time, height and width")
    window_size: PatchSize = Field((3, 3, 3), description="window: tiles that a tile sees along each axis; odd")
    attention_backend: Literal["auto", "sdpa", "xformers", "flex"] = Field(
        "auto", description="auto: the best that the device has; another that cannot run there falls back to sdpa"
    )

    conditions: tuple[Literal["fps", "size", "crop"], ...] = Field(
        (), description="of the clip, that the model is told besides the timestep and the text"
    )
    given_frames: bool = Field(
        False, description="a mask channel for frames that are given, for image to video and continuation"
    )
    feed_forward_chunk_size: Count | None = Field(
        None,
        description="tokens that a feed-forward layer takes at a time, computed again in the backward pass; none for "
        "all: less memory, same values",
    )
    recompute_blocks: CountOrZero = Field(
        0, description="so many of the blocks are computed again in the backward pass: less memory, same values"
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") is None:
            return values
        if values["preset"] == "sd3":
            depth = values.get("depth", cls.model_fields["depth"].default)
            sizes = {"hidden_size": 64 * depth, "num_heads": depth} if isinstance(depth, int) else {}
        else:
            sizes = PRESETS.get(values["preset"], {})
        return {**sizes, **values}

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"model.hidden_size is {self.hidden_size}, which model.num_heads = {self.num_heads} does not divide: "
                f"use {self.hidden_size // self.num_heads * self.num_heads or self.num_heads} "
                f"or {(self.hidden_size // self.num_heads + 1) * self.num_heads}"
            )
        if self.rotary:
            split, fitting = self.rotary_channels, split_head(self.head_size)
            if sum(split) != self.head_size or any(channels % 2 for channels in split):
                raise UserError(
                    f"model.rotary_split is {list(split)}, and must be even numbers that add up to "
                    f"model.hidden_size / model.num_heads = {self.head_size}, such as {list(fitting)}"
                )
        if "sincos" in (self.spatial_position, self.temporal_position) and self.hidden_size % 4:
            raise UserError(
                f"model.hidden_size is {self.hidden_size}, and must be a multiple of 4 for sincos positions"
            )
        for key, names in _ONLY_FOR.items():
            if self.name not in names and getattr(self, key) != type(self).model_fields[key].default:
                raise UserError(f"model.{key} is for model.name = {' or '.join(names)}, not {self.name}: leave it out")
        if self.single_stream_blocks >= self.depth:
            raise UserError(
                f"model.single_stream_blocks is {self.single_stream_blocks}, and must leave one of "
                f"model.depth = {self.depth} blocks for two streams"
            )
        num_joint = self.depth - self.single_stream_blocks
        if outside := [block for block in self.dual_attention_blocks if block >= num_joint]:
            raise UserError(
                f"model.dual_attention_blocks names block {outside[0]}, and the blocks of two streams are 0 to "
                f"{num_joint - 1}"
            )
        if self.text_split is not None and self.attention_pattern == "factorised":
            raise UserError(
                "model.text_split does not go with model.attention_pattern = factorised, which repeats the text"
            )
        if any(size % 2 == 0 for size in self.window_size):
            raise UserError(
                f"model.window_size is {list(self.window_size)}, and must be odd: a tile and its neighbours"
            )
        if self.given_frames and not self.has_adaptive_norms:
            raise UserError(
                "model.given_frames needs a timestep per frame, which reaches the blocks through adaptive norms alone: "
                "use model.name = mmdit, cross_dit, or dit with model.dit_conditioning = adaln or adaln_zero"
            )
        if self.attention_backend == "xformers" and find_spec("xformers") is None:
            raise UserError("model.attention_backend is xformers, which is not installed: install it, or use auto")
        return self

    @property
    def head_size(self) -> int:
        """K."""
        return self.hidden_size // self.num_heads

    @property
    def rotary_channels(self) -> tuple[int, int, int]:
        """Channels of a head that turn with time, height and width."""
        return self.rotary_split or split_head(self.head_size)

    @property
    def has_adaptive_norms(self) -> bool:
        """Timestep and pooled text steer the norms; else they are tokens."""
        return self.name in ("mmdit", "cross_dit") or (
            self.name == "dit" and self.dit_conditioning in ("adaln", "adaln_zero")
        )

    @property
    def joins_text(self) -> bool:
        """The text is part of the sequence; else the video looks at it through cross-attention."""
        return self.name in ("mmdit", "u_vit") or (self.name == "dit" and self.dit_conditioning != "cross_attention")


class DiffusionConfig(Table):
    """The forward process and the loss."""

    process: Literal["rectified_flow", "cosine", "edm", "ldm_linear"] = Field(
        "rectified_flow",
        description="from data to noise: the straight path, or the variance preserving one with the angle growing "
        "evenly, as in EDM (log of noise over signal normal in t), or as in latent diffusion",
    )
    prediction: Prediction = Field("data", description="what the network predicts")
    loss: Prediction = Field("velocity", description="whose squared error is the loss")
    weighting: Literal["none", "min_snr"] = Field(
        "none", description="min_snr: less loss where there is little noise; loss = noise makes it the published one"
    )
    min_snr_gamma: Positive = Field(5.0, description="signal-to-noise ratio from which min_snr weighs less")
    min_t: Positive = Field(0.05, description="bounds the division by sigma from below where data becomes velocity")

    timestep_sampler: Literal["uniform", "logit_normal", "mode", "cosmap", "edm", "beta"] = Field(
        "logit_normal", description="density over t"
    )
    logit_mean: float = Field(0.0, description="logit_normal: of logit(t); above 0 draws more noise")
    logit_std: Positive = Field(1.0, description="logit_normal: of logit(t)")
    mode_scale: Annotated[float, Field(ge=-1, le=1.75)] = Field(
        1.29, description="mode: above 0 draws more from the middle, below 0 from the ends"
    )
    edm_mean: float = Field(-1.2, description="edm, process or sampler: mean of log(sigma / alpha)")
    edm_std: Positive = Field(1.2, description="edm, process or sampler: standard deviation of it")
    beta: tuple[Positive, Positive] = Field((1.5, 1.0), description="beta: its two parameters")
    stratified: bool = Field(
        False, description="the timesteps of a batch are spread evenly: one from each of batch_size equal shares"
    )
    shift: Positive = Field(
        2.0, description="moves t towards noise, in training and in sampling; the more pixels, the more it takes"
    )
    shift_tokens: Count | None = Field(
        None,
        description="video tokens of the clips that shift is for; it grows with their root; none: the same for all",
    )

    condition_dropout: Fraction = Field(0.1, description="share of samples trained on the empty prompt")
    encoder_dropout: tuple[Fraction, ...] = Field(
        (), description="share of samples that lose the text of each text encoder by itself (SD3: 0.464 each)"
    )
    per_frame_noise: bool = Field(
        False, description="each frame of tokens has a timestep of its own (Diffusion Forcing)"
    )
    first_frame: Fraction = Field(0.0, description="share of samples whose first frame is given")
    first_and_last_frame: Fraction = Field(0.0, description="share of samples whose first and last frames are given")
    continuation: Fraction = Field(
        0.0, description="share of samples whose beginning is given, from one frame to half of them"
    )

    @property
    def gives_frames(self) -> bool:
        """Some samples are trained with frames that are given."""
        return self.first_frame + self.first_and_last_frame + self.continuation > 0

    @model_validator(mode="after")
    def _check(self) -> "DiffusionConfig":
        if self.stratified and self.per_frame_noise:
            raise UserError(
                "diffusion.stratified spreads one timestep per sample, and diffusion.per_frame_noise draws several: "
                "leave one out"
            )
        if (shares := self.first_frame + self.first_and_last_frame + self.continuation) > 1:
            raise UserError(
                f"diffusion.first_frame, first_and_last_frame and continuation add up to {shares:g}: use at most 1"
            )
        return self


class TrainingConfig(Table):
    """The loop, the optimizer and what is kept."""

    steps: Count = Field(1000, description="optimizer steps")
    batch_size: Count = Field(32, description="samples per step, over all ranks together")
    micro_batch_size: Count | None = Field(
        None, description="samples per rank and forward pass; none: batch_size / ranks; smaller saves memory"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: orthogonalized momentum for the blocks' matrices, AdamW elsewhere; ZeRO 0 to 2, no clipping",
    )
    learning_rate: Positive = Field(1e-3, description="peak learning rate of AdamW")
    muon_learning_rate: Positive = Field(0.03, description="peak learning rate of Muon's matrices")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="of AdamW")
    weight_decay: NotNegative = Field(0.0, description="of AdamW")
    schedule: Literal["constant", "cosine", "wsd"] = Field(
        "cosine", description="of the learning rates after the warm-up; wsd: constant, then linearly to zero"
    )
    decay_fraction: Fraction = Field(0.3, description="last share of the steps, over which wsd goes to zero")
    warmup_steps: CountOrZero = Field(50, description="linear warm-up")
    gradient_clipping: NotNegative = Field(1.0, description="largest norm of the gradient; 0: none")
    precision: Precision = Field(
        "fp32", description="bf16: products in bfloat16 under autocast; weights and optimizer stay in fp32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2, description="DeepSpeed ZeRO: 1 shards the optimizer over the ranks, 2 the gradients too, 3 the weights too"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="of the averaged weights; early on (1 + step) / (10 + step) when that is less"
    )
    log_every: Count = Field(10, description="steps between progress lines")
    checkpoint_every: Count = Field(500, description="steps between checkpoints; the last step always has one")
    validate_every: Count = Field(500, description="steps between losses on the clips of train.py --validation")
    validation_clips: Count = Field(64, description="at most so many of these clips, the same each time")
    initial_weights: Path | None = Field(
        None, description="safetensors file that a new run starts from, such as scripts/from_sd3.py writes"
    )
    keep_checkpoints: Count = Field(2, description="how many of the latest checkpoints stay")
    num_workers: CountOrZero = Field(0, description="processes that load data, per rank; 0: none")


class SamplingConfig(Table):
    """How clips are generated when the command line says nothing else."""

    solver: Solver = Field(
        "euler", description="euler: first order; heun, dpmpp_2m, unipc: second; stochastic_euler: adds fresh noise"
    )
    num_steps: Count = Field(20, description="solver steps")
    spacing: Literal["uniform", "karras"] = Field(
        "uniform", description="of the steps: even in t, or as EDM's in the ratio of noise to signal"
    )
    shift: Positive | None = Field(None, description="of the steps towards noise; none: as in training")
    guidance_scale: NotNegative = Field(3.0, description="1: no guidance")
    guidance: GuidanceMethod = Field(
        "cfg",
        description="cfg: classifier-free; cfg_zero_star: with the negative answer scaled; apg: without the part of "
        "the difference along the positive answer",
    )
    guidance_interval: tuple[Fraction, Fraction] = Field((0.0, 1.0), description="guided only while t is between these")
    guidance_rescale: Fraction = Field(0.0, description="share in which guided clips get their contrast back")
    guidance_batched: bool = Field(
        True, description="both answers from one batch of twice the size; false: less memory, same values"
    )
    zero_init: Fraction = Field(0.0, description="nothing moves while t is above 1 - zero_init (CFG-Zero*)")
    apg_norm: Positive | None = Field(None, description="apg: the difference is cut to this root mean square")
    apg_momentum: float = Field(0.0, description="apg: share of earlier differences that is added, such as -0.5")
    step_cache: NotNegative = Field(
        0.0,
        description="relative change of the first block's work below which a step takes that of the other blocks from "
        "an earlier one; 0: never",
    )

    @model_validator(mode="after")
    def _check(self) -> "SamplingConfig":
        low, high = self.guidance_interval
        if low > high:
            raise UserError(
                f"sampling.guidance_interval is {list(self.guidance_interval)}, and must ascend: use [{high}, {low}]"
            )
        return self


class Config(Table):
    """A whole run. `data`, `autoencoder` and `text_encoder` are what the shards were made with."""

    seed: CountOrZero = Field(0, description="of the weights, the data order and every draw")
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    deepspeed: dict[str, Any] = Field({}, description="merged over the DeepSpeed config that the run derives")

    @model_validator(mode="after")
    def _check_grid(self) -> "Config":
        takes_given = self.model.given_frames or self.diffusion.per_frame_noise
        if self.diffusion.gives_frames and not takes_given:
            raise UserError(
                "diffusion.first_frame, first_and_last_frame or continuation gives frames to a model that cannot be "
                "told: set model.given_frames = true, or diffusion.per_frame_noise = true"
            )
        if self.diffusion.gives_frames and not self.model.given_frames and self.model.patch_size[0] > 1:
            raise UserError(
                f"model.patch_size is {list(self.model.patch_size)}, and must begin with 1 where frames are given "
                "without model.given_frames = true: a token has one timestep for all its frames"
            )
        if self.diffusion.per_frame_noise and not self.model.has_adaptive_norms:
            raise UserError(
                "diffusion.per_frame_noise needs a timestep per frame, which reaches the blocks through adaptive norms "
                "alone: use model.name = mmdit, cross_dit, or dit with model.dit_conditioning = adaln or adaln_zero"
            )
        if self.sampling.zero_init and self.diffusion.process != "rectified_flow":
            raise UserError("sampling.zero_init is for diffusion.process = rectified_flow: leave it out")
        stride = AUTOENCODER_STRIDES.get(self.autoencoder.name)
        if stride and "model" in self.model_fields_set:  # else the config may be for preprocessing: it needs no model
            latents = self.data.grid.divided_by(stride, "stride of the autoencoder")
            grid, table = token_grid(latents, self.model.patch_size), self.model.position_grid
            if self.model.spatial_position == "learned" and table and (grid.height > table[0] or grid.width > table[1]):
                raise UserError(
                    f"model.position_grid is {list(table)}, and the clips of [data] have "
                    f"{[grid.height, grid.width]} tokens in a frame: use {[grid.height, grid.width]} or more"
                )
        return self
