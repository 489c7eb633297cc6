"""The training loss: what the network predicts and how its error is weighed, chosen apart from each other."""

from torch import Tensor

from video_dit.diffusion.rectified_flow import Prediction, prediction_target, velocity_per_error


def diffusion_loss(
    output: Tensor, latents: Tensor, noise: Tensor, t: Tensor, prediction: Prediction, loss: Prediction, min_t: float
) -> Tensor:
    """Mean squared error per sample, [B].

    The error of the prediction is turned into the error of what `loss` names: a network that predicts the data and is
    trained on the velocity pays |error|^2 / t^2.

    Args:
        output: [B, C, F, H, W], the network's output at x_t.
        latents: [B, C, F, H, W], the clean latents.
        noise: [B, C, F, H, W], the noise that x_t was made with.
        t: [B] in [0, 1].
        prediction: what the output is.
        loss: whose error is squared.
        min_t: bounds the division by t (or 1 - t) from below.
    """
    error = (output.float() - prediction_target(latents, noise, prediction)).square().flatten(1).mean(1)
    ratio = velocity_per_error(t, prediction, min_t) / velocity_per_error(t, loss, min_t)
    return ratio.square() * error
