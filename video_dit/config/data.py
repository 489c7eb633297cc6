"""[data], [autoencoder] and [text_encoder]: what shards are made with."""

from string import Formatter
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from video_dit.config.table import Count, CountOrZero, PatchSize, Positive, Precision, Table
from video_dit.errors import UserError
from video_dit.shapes import Grid

AUTOENCODER_STRIDES = {"pixel": (1, 1, 1), "haar": (2, 2, 2)}
"""Of those without weights; the others' are in the model's own config."""

WHERE_AND_HOW = frozenset(
    (
        "autoencoder.model",
        "autoencoder.dtype",
        "autoencoder.frames_per_chunk",
        "autoencoder.tile_size",
        "autoencoder.tile_overlap",
        "text_encoder.models",
        "text_encoder.dtype",
    )
)
"""Keys that say where pretrained encoders are and in what precision and pieces they compute, not which ones they are.

They may differ between shards, a run and sampling: fingerprints tell whether the encoders are the same.
"""


class Limits(NamedTuple):
    """What a video may ask for at most: pixels of a frame, seconds, and frames that are decoded."""

    pixels: int
    seconds: float
    frames: int


class DataConfig(Table):
    """What preprocessing makes of a video."""

    fps: Positive = Field(4.0, description="frames per second of the clips")
    num_frames: Count = Field(8, description="frames per clip; a longer video gives several clips, end to end")
    height: Count = Field(32, description="pixels; videos are scaled to cover height x width, then cropped centrally")
    width: Count = Field(32, description="pixels")
    split: str = Field("train", description="take the rows of a manifest whose 'split' is this, or that have none")
    path_column: str = Field("path", description="the manifest's column of video files, relative to the manifest")
    path_template: str | None = Field(
        None, description="in place of path_column: a file name made of columns, such as '{page_dir}/{videoid}.mp4'"
    )
    list_columns: tuple[str, ...] = Field(
        (),
        description="columns that hold lists, an entry for each of several clips; path_template can name {clip}, the "
        "place in the lists, from 0",
    )
    allow_outside: bool = Field(
        False,
        description="read files outside the source too, which a manifest names by '..', an absolute path or a URL, or "
        "to which a link leads",
    )
    caption_columns: dict[str, Positive] = Field(
        {"caption": 1.0},
        description="columns (or keys of .json files beside the videos) of captions, each with its weight: every epoch "
        "shows one of those that a clip has, drawn by weight; SD3 uses half original, half synthetic ones",
    )
    max_caption_length: Count = Field(10000, description="characters; a longer caption counts as none")
    missing_caption: Literal["empty", "drop"] = Field(
        "empty", description="a video without a caption gets an empty one, or is dropped"
    )
    images: bool = Field(
        False,
        description="take the images of folders and tars too, each as a clip of one frame, for which "
        "buckets.num_frames needs a 1; those that a manifest names are always taken",
    )
    decoder: Literal["auto", "pyav", "decord", "torchcodec"] = Field(
        "auto",
        description="auto: the fastest that is right, which is pyav for all files that we measured; decord and "
        "torchcodec return wrong frames of some files, or refuse them",
    )
    max_pixels: Count = Field(8192 * 4320, description="pixels of a frame; a video with more is refused: 8K passes")
    max_seconds: Positive = Field(4 * 3600.0, description="a longer video is refused, whatever its header says")
    max_frames: Count = Field(1_000_000, description="frames of a video; one with more is refused")
    clips_per_shard: Count = Field(256, description="clips per shard file")

    @property
    def grid(self) -> Grid:
        """Of a clip, in pixels."""
        return Grid(self.num_frames, self.height, self.width)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_pixels, self.max_seconds, self.max_frames)

    @model_validator(mode="after")
    def _check_columns(self) -> "DataConfig":
        if not self.caption_columns:
            raise UserError("data.caption_columns is empty: name a column with its weight, such as {caption = 1.0}")
        if self.path_template is not None:
            try:
                fields = [field for _, field, _, _ in Formatter().parse(self.path_template) if field is not None]
            except ValueError as error:
                raise UserError(f"data.path_template is {self.path_template!r}: {error}") from error
            if not all(fields) or not fields:
                raise UserError(
                    f"data.path_template is {self.path_template!r}, and must name columns, such as '{{videoid}}.mp4'"
                )
        if self.list_columns and self.path_template is None:
            raise UserError(
                "data.list_columns makes several clips of a row, whose files data.path_template must name, such as "
                "'{videoID}_{clip}.mp4'"
            )
        return self


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
