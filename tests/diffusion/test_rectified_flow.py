import pytest
import torch

from video_dit.diffusion.objective import diffusion_loss
from video_dit.diffusion.rectified_flow import add_noise, prediction_target, to_velocity

PREDICTIONS = ["velocity", "data", "noise"]


def example(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(batch, 3, 2, 4, 4), torch.randn(batch, 3, 2, 4, 4), torch.linspace(0.1, 0.9, batch)


def test_the_path_starts_at_the_data_and_ends_in_noise() -> None:
    latents, noise, _ = example(2)
    assert torch.equal(add_noise(latents, noise, torch.zeros(2)), latents)
    assert torch.equal(add_noise(latents, noise, torch.ones(2)), noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_of_any_kind_is_the_velocity(prediction: str) -> None:
    latents, noise, t = example()
    output = prediction_target(latents, noise, prediction)
    velocity = to_velocity(output, add_noise(latents, noise, t), t, prediction, min_t=0.01)
    torch.testing.assert_close(velocity, noise - latents)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", PREDICTIONS)
def test_the_loss_is_the_squared_error_of_what_it_names(prediction: str, loss: str) -> None:
    """The prediction's output is turned into velocity, data and noise by solving the two equations of the path."""
    latents, noise, t = example()
    x_t = add_noise(latents, noise, t)
    output = prediction_target(latents, noise, prediction) + 0.1 * torch.randn_like(latents)

    velocity = to_velocity(output, x_t, t, prediction, min_t=0.01)
    t_wide = t[:, None, None, None, None]
    implied = {"velocity": velocity, "data": x_t - t_wide * velocity, "noise": x_t + (1 - t_wide) * velocity}
    expected = (implied[loss] - prediction_target(latents, noise, loss)).square().flatten(1).mean(1)

    actual = diffusion_loss(output, latents, noise, t, prediction, loss, min_t=0.01)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_min_t_bounds_the_weight_near_the_data() -> None:
    latents, noise, _ = example(2)
    output = latents + 1
    loss = diffusion_loss(output, latents, noise, torch.tensor([0.05, 0.001]), "data", "velocity", min_t=0.05)
    torch.testing.assert_close(loss, torch.full((2,), 400.0))
