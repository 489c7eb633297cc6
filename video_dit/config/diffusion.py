"""[diffusion] and [sampling]: from data to noise in training, and back."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from video_dit.config.table import Count, Fraction, NotNegative, Positive, Table
from video_dit.errors import UserError

Prediction = Literal["velocity", "data", "noise"]
Solver = Literal["euler", "heun", "dpmpp_2m", "unipc", "stochastic_euler"]
GuidanceMethod = Literal["cfg", "cfg_zero_star", "apg"]


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
    min_t: Positive = Field(
        0.05,
        description="bounds from below what the loss is divided by near t = 0 or 1; and, where noise is predicted, its "
        "velocity",
    )

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
