"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)."""

import torch
from torch import Tensor

from video_dit.contracts import TextCondition
from video_dit.diffusion import Denoiser, VelocityField
from video_dit.diffusion.rectified_flow import Prediction, to_velocity


def guided_velocity(
    denoiser: Denoiser,
    text: TextCondition,
    negative_text: TextCondition,
    guidance_scale: float,
    prediction: Prediction,
    min_t: float,
) -> VelocityField:
    """The velocity field of a denoiser under a prompt.

    velocity = negative + guidance_scale (positive - negative); a scale of 1 asks the network once instead of twice.

    Args:
        denoiser: the network.
        text: the prompts, B rows.
        negative_text: what to move away from, B rows; the empty prompt unless the user names another.
        guidance_scale: 1 is no guidance.
        prediction: what the network predicts.
        min_t: see `to_velocity`.
    """
    if guidance_scale == 1:

        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            return to_velocity(denoiser(x_t, t, text), x_t, t, prediction, min_t)

        return velocity

    both = TextCondition(*(torch.cat(pair) for pair in zip(text, negative_text, strict=True)))

    def velocity_with_guidance(x_t: Tensor, t: Tensor) -> Tensor:
        x_twice, t_twice = torch.cat((x_t, x_t)), torch.cat((t, t))
        output = denoiser(x_twice, t_twice, both)
        positive, negative = to_velocity(output, x_twice, t_twice, prediction, min_t).chunk(2)
        return negative + guidance_scale * (positive - negative)

    return velocity_with_guidance
