"""What the network predicts, and what is made of its error: chosen apart from each other."""

import torch
from torch import Tensor

from video_dit.config import DiffusionConfig, Prediction
from video_dit.diffusion.processes import Process, expand_t

NUM_BINS = 9
"""Of t, in which the loss is shown."""


def prediction_target(process: Process, latents: Tensor, noise: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
    """What a perfect network of this kind would return; the shape of `latents`."""
    if prediction == "velocity":
        return process.velocity(latents, noise, t)
    return latents if prediction == "data" else noise


def velocity_per_error(process: Process, t: Tensor, prediction: Prediction, min_t: float) -> Tensor:
    """How large an error of the velocity one unit of error of the prediction is, up to sign; the shape of `t`.

    With x_t given, alpha latents + sigma noise is fixed, so an error of the data is one of the velocity times sigma,
    and an error of the noise is one times alpha. `min_t` bounds the two divisions from below, as in Li and He 2025
    (arXiv 2511.13720), where the velocity is that of a predicted clean clip.
    """
    alpha, sigma = process.coefficients(t)
    if prediction == "data":
        return 1 / sigma.clamp(min=min_t)
    return 1 / alpha.clamp(min=min_t) if prediction == "noise" else torch.ones_like(t)


def to_velocity(
    process: Process, output: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction, min_t: float
) -> Tensor:
    """The velocity that a network's output stands for.

    Args:
        process: the forward process.
        output: [B, C, F, H, W], what the network returned.
        x_t: [B, C, F, H, W], what it was given.
        t: [B] or [B, F] in [0, 1].
        prediction: what it predicts.
        min_t: bounds the division by alpha from below, where noise is predicted. Predicted data is divided by sigma
            itself, so that a last step to t = 0 ends at what is predicted.
    """
    if prediction == "velocity":
        return output
    alpha, sigma = (expand_t(c, x_t) for c in process.coefficients(t))
    of_latents, of_noise = (expand_t(c, x_t) for c in process.velocity_coefficients(t))
    if prediction == "data":
        return (of_noise * x_t - output) / sigma
    return (output + of_latents * x_t) / alpha.clamp(min=min_t)


def diffusion_loss(
    process: Process, output: Tensor, latents: Tensor, noise: Tensor, t: Tensor, config: DiffusionConfig
) -> Tensor:
    """The weighed mean squared error of each frame, [B, F].

    The error of the prediction is turned into the error of what `config.loss` names: a network that predicts the data
    and is trained on the velocity pays |error|^2 / sigma^2. With "min_snr" that is multiplied by
    min(SNR, gamma) / SNR, which with `loss` = noise is Hang et al. 2023 (arXiv 2303.09556, equation 4).

    Args:
        process: the forward process.
        output: [B, C, F, H, W], the network's output at x_t.
        latents: [B, C, F, H, W], the clean latents.
        noise: [B, C, F, H, W], the noise that x_t was made with.
        t: [B] or [B, F] in [0, 1].
        config: its prediction, loss, weighting and min_t are read.
    """
    target = prediction_target(process, latents, noise, t, config.prediction)
    error = (output.float() - target).square().mean((1, 3, 4))
    ratio = velocity_per_error(process, t, config.prediction, config.min_t) / velocity_per_error(
        process, t, config.loss, config.min_t
    )
    weight = ratio.square()
    if config.weighting == "min_snr":
        weight = weight * (config.min_snr_gamma * process.ratio(t).square()).clamp(max=1)
    return error * weight.reshape(len(t), -1)


def bin_of(t: Tensor) -> Tensor:
    """Which of the `NUM_BINS` equal parts of [0, 1] each t is in, int64."""
    return (t * NUM_BINS).long().clamp(max=NUM_BINS - 1)
