"""The straight path from data to noise, and what a network may predict along it."""

from typing import Literal

from torch import Tensor

Prediction = Literal["velocity", "data", "noise"]


def expand_t(t: Tensor, like: Tensor) -> Tensor:
    """[B] to [B, 1, ...] with as many dimensions as `like`."""
    return t.reshape(-1, *(1,) * (like.ndim - 1))


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) latents + t noise, with t [B]."""
    t = expand_t(t, latents)
    return (1 - t) * latents + t * noise


def prediction_target(latents: Tensor, noise: Tensor, prediction: Prediction) -> Tensor:
    """What a perfect network of this kind would return; the shape of `latents`."""
    targets = {"velocity": noise - latents, "data": latents, "noise": noise}
    return targets[prediction]


def velocity_per_error(t: Tensor, prediction: Prediction, min_t: float) -> Tensor:
    """How large an error of the velocity one unit of error of the prediction is, up to sign; the shape of `t`.

    With x_t given, (1 - t) latents + t noise is fixed, so an error of the data is an error of the velocity times t, and
    an error of the noise is one times (1 - t). `min_t` bounds the two divisions from below, as in Li and He 2025
    (arXiv 2511.13720), where the velocity is that of a predicted clean clip.
    """
    if prediction == "data":
        return 1 / t.clamp(min=min_t)
    if prediction == "noise":
        return 1 / (1 - t).clamp(min=min_t)
    return t.new_ones(t.shape)


def to_velocity(output: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction, min_t: float) -> Tensor:
    """The velocity that a network's output stands for.

    Args:
        output: [B, C, F, H, W], what the network returned.
        x_t: [B, C, F, H, W], what it was given.
        t: [B] in [0, 1].
        prediction: what it predicts.
        min_t: see `velocity_per_error`.
    """
    if prediction == "velocity":
        return output
    per_error = expand_t(velocity_per_error(t, prediction, min_t), x_t)
    return (x_t - output) * per_error if prediction == "data" else (output - x_t) * per_error
