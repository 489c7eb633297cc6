"""A whole run. Each table says the type, default and meaning of its keys; no default of a run lives anywhere else."""

from typing import Any

from pydantic import Field, model_validator

from video_dit.config.data import AUTOENCODER_STRIDES, AutoencoderConfig, DataConfig, TextEncoderConfig
from video_dit.config.diffusion import DiffusionConfig, SamplingConfig
from video_dit.config.lora import LoraConfig
from video_dit.config.model import ModelConfig
from video_dit.config.preprocessing import BucketsConfig, CaptionerConfig, FiltersConfig, ShotsConfig
from video_dit.config.table import CountOrZero, Table
from video_dit.config.training import TrainingConfig
from video_dit.errors import UserError
from video_dit.shapes import token_grid


class Config(Table):
    """A whole run. The tables from `data` to `text_encoder` are what shards are made with."""

    seed: CountOrZero = Field(0, description="of the weights, the data order and every draw")
    data: DataConfig = DataConfig()
    shots: ShotsConfig = ShotsConfig()
    filters: FiltersConfig = FiltersConfig()
    captioner: CaptionerConfig = CaptionerConfig()
    buckets: BucketsConfig = BucketsConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    deepspeed: dict[str, Any] = Field({}, description="merged over the DeepSpeed config that the run derives")

    @model_validator(mode="after")
    def _check_frames(self) -> "Config":
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
        return self

    @model_validator(mode="after")
    def _check_lora(self) -> "Config":
        if self.lora.rank > 0 and self.training.initial_weights is None:
            raise UserError(
                f"lora.rank is {self.lora.rank}, and adapters need a model to adapt: name one with "
                "training.initial_weights, or leave [lora] out"
            )
        return self

    @model_validator(mode="after")
    def _check_grid(self) -> "Config":
        stride = AUTOENCODER_STRIDES.get(self.autoencoder.name)
        if self.buckets.sizes or self.buckets.num_frames or self.buckets.aspects:
            return self  # there need be no clip of [data]
        if stride and "model" in self.model_fields_set:  # else the config may be for preprocessing: it needs no model
            latents = self.data.grid.divided_by(stride, "stride of the autoencoder")
            grid, table = token_grid(latents, self.model.patch_size), self.model.position_grid
            if self.model.spatial_position == "learned" and table and (grid.height > table[0] or grid.width > table[1]):
                raise UserError(
                    f"model.position_grid is {list(table)}, and the clips of [data] have "
                    f"{[grid.height, grid.width]} tokens in a frame: use {[grid.height, grid.width]} or more"
                )
        return self
