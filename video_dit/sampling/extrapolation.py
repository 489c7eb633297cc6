"""What becomes of a clip that is longer, larger or faster than those of training."""

from video_dit.config import Config
from video_dit.shapes import Grid


class SamplingWarning(UserWarning):
    """What a user should know of a clip that can be made all the same."""


def extrapolations(config: Config, trained: Grid, grid: Grid, fps: float) -> list[str]:
    """What a user should know before such a clip is made; learned places are not in it, for they refuse it.

    Args:
        config: of the run.
        trained: tokens of a clip in training.
        grid: tokens of the clip.
        fps: frames per second of the clip.
    """
    model = config.model
    told = []
    duration = grid.frames * (config.data.fps / fps if model.reference_fps else 1)
    longer, larger = duration > trained.frames, grid.height > trained.height or grid.width > trained.width
    if longer or larger:
        what = " and ".join(word for word, holds in (("longer", longer), ("larger", larger)) if holds)
        told.append(
            f"this clip, {_size(grid)} tokens, is {what} than those of training, {_size(trained)}: "
            f"{'; '.join(_mechanisms(config, longer, larger))}"
        )
    if fps != config.data.fps and model.reference_fps is None and "fps" not in model.conditions:
        told.append(
            f"fps is {fps:g}, and the model, which knows no frame rate, was trained at {config.data.fps:g}: things "
            f"move {fps / config.data.fps:g} times as fast"
        )
    return told


def _mechanisms(config: Config, longer: bool, larger: bool) -> list[str]:
    model = config.model
    parts = []
    if model.rotary:
        parts.append(
            {
                "none": "rotary angles extrapolate, things may repeat or dissolve (model.rotary_scaling = none)",
                "interpolation": "rotary places are squeezed into those of training (model.rotary_scaling)",
                "ntk": "rotary wavelengths are stretched to span it (model.rotary_scaling)",
            }[model.rotary_scaling]
        )
    if (longer and model.temporal_position == "sincos") or (larger and model.spatial_position == "sincos"):
        parts.append("sincos places extrapolate to values that the model has not seen")
    return parts or ["the model has not seen this size"]


def _size(grid: Grid) -> str:
    return " x ".join(map(str, grid))
