"""Every key of a config, with its type, default and meaning. No default of a run lives anywhere else."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PatchSize = tuple[Count, Count, Count]
Prediction = Literal["velocity", "data", "noise"]


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


class AutoencoderConfig(Table):
    """From pixels to latents and back."""

    name: Literal["pixel", "haar"] = Field(
        "pixel", description="pixel: the pixels themselves; haar: 2x2x2 wavelets; both lossless, without weights"
    )


class TextEncoderConfig(Table):
    """From prompts to embeddings."""

    name: Literal["hash"] = Field("hash", description="hash: words by their hashed n-grams, without weights")
    max_length: Count = Field(16, description="tokens per prompt; longer prompts are cut")
    width: Count = Field(64, description="channels of an embedding")


class ModelConfig(Table):
    """The transformer."""

    name: Literal["mmdit"] = Field("mmdit", description="mmdit: separate video and text streams, joint attention")
    patch_size: PatchSize = Field((2, 4, 4), description="latent cells per token along time, height and width")
    hidden_size: Count = Field(256, description="width of the streams")
    depth: Count = Field(6, description="number of blocks")
    num_heads: Count = Field(4, description="attention heads")
    mlp_ratio: Positive = Field(4.0, description="inner width of the feed-forward layers over hidden_size")
    qk_norm: Literal["none", "rms"] = Field("rms", description="normalization of queries and keys")
    position_embedding: Literal["rotary", "sincos", "both"] = Field(
        "both", description="rotary: relative, in attention; sincos: absolute, added to the tokens"
    )
    feed_forward_chunk_size: Count | None = Field(
        None, description="tokens that a feed-forward layer takes at a time; none for all: less memory, same values"
    )


class DiffusionConfig(Table):
    """The forward process and the loss."""

    prediction: Prediction = Field("data", description="what the network predicts")
    loss: Prediction = Field("velocity", description="whose squared error is the loss")
    min_t: Positive = Field(0.05, description="bounds the division by t from below where data becomes velocity")
    timestep_sampler: Literal["uniform", "logit_normal"] = Field("logit_normal", description="density over t")
    logit_mean: float = Field(0.0, description="of logit(t) under logit_normal; above 0 draws more noise")
    logit_std: Positive = Field(1.0, description="of logit(t) under logit_normal")
    shift: Positive = Field(
        2.0, description="moves t towards noise, in training and in sampling; the more pixels, the more it takes"
    )
    condition_dropout: Fraction = Field(0.1, description="share of samples trained on the empty prompt")


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
    warmup_steps: Annotated[int, Field(ge=0)] = Field(50, description="linear warm-up")
    gradient_clipping: NotNegative = Field(1.0, description="largest norm of the gradient; 0: none")
    precision: Literal["fp32", "bf16"] = Field(
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
    keep_checkpoints: Count = Field(2, description="how many of the latest checkpoints stay")
    num_workers: Annotated[int, Field(ge=0)] = Field(0, description="processes that load data, per rank; 0: none")


class SamplingConfig(Table):
    """How clips are generated when the command line says nothing else."""

    solver: Literal["euler", "heun"] = Field("euler", description="first or second order")
    num_steps: Count = Field(20, description="solver steps")
    guidance_scale: NotNegative = Field(3.0, description="classifier-free guidance; 1: none")


class Config(Table):
    """A whole run. `data`, `autoencoder` and `text_encoder` are what the shards were made with."""

    seed: Annotated[int, Field(ge=0)] = Field(0, description="of the weights, the data order and every draw")
    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    deepspeed: dict[str, Any] = Field({}, description="merged over the DeepSpeed config that the run derives")
