"""[model]: the transformer."""

from importlib.util import find_spec
from math import lcm
from typing import Any, Literal

from pydantic import Field, model_validator

from video_dit.config.table import Count, CountOrZero, PatchSize, Positive, Table
from video_dit.errors import UserError
from video_dit.shapes import split_head

Backbone = Literal["mmdit", "dit", "cross_dit", "u_vit"]
QKNorm = Literal["none", "rms", "layer"]
PositionTable = Literal["none", "sincos", "learned"]

PRESETS = {
    "S": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""DiT's sizes (Peebles and Xie 2022, arXiv 2212.09748, table 1)."""

_ONLY_FOR = {
    "text_qk_norm": ("mmdit",),
    "dual_attention_blocks": ("mmdit",),
    "text_split": ("mmdit",),
    "single_stream_blocks": ("mmdit",),
    "dit_conditioning": ("dit",),
    "attention_pattern": ("mmdit", "dit", "cross_dit"),
}


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
    def hidden_size_step(self) -> int:
        """What `hidden_size` must be a multiple of, with the other keys as they are."""
        of_heads = self.num_heads * (2 if self.rotary else 1)
        return lcm(of_heads, 4) if "sincos" in (self.spatial_position, self.temporal_position) else of_heads

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
