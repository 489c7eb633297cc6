import pytest
import torch

from video_dit.config import DiffusionConfig
from video_dit.diffusion.objective import NUM_BINS, bin_of, diffusion_loss, prediction_target, to_velocity
from video_dit.diffusion.processes import build_process

PREDICTIONS = ["velocity", "data", "noise"]
PROCESSES = ["rectified_flow", "cosine", "edm", "ldm_linear"]


def example(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(batch, 3, 2, 4, 4), torch.randn(batch, 3, 2, 4, 4), torch.linspace(0.1, 0.9, batch)


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_of_any_kind_is_the_velocity(prediction: str, process_name: str) -> None:
    latents, noise, t = example()
    process = build_process(DiffusionConfig(process=process_name))
    output = prediction_target(process, latents, noise, t, prediction)
    velocity = to_velocity(process, output, process.add_noise(latents, noise, t), t, prediction, min_t=0.01)
    torch.testing.assert_close(velocity, process.velocity(latents, noise, t), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", PREDICTIONS)
def test_the_loss_is_the_squared_error_of_what_it_names(prediction: str, loss: str, process_name: str) -> None:
    """The output is turned into velocity, data and noise by solving the equations of the path."""
    latents, noise, t = (x.double() for x in example())
    config = DiffusionConfig(process=process_name, prediction=prediction, loss=loss, min_t=0.001)
    process = build_process(config)
    x_t = process.add_noise(latents, noise, t)
    output = prediction_target(process, latents, noise, t, prediction) + 0.1 * torch.randn_like(latents)

    alpha, sigma = (c[:, None, None, None, None] for c in process.coefficients(t))
    data = {"data": output, "noise": (x_t - sigma * output) / alpha}.get(prediction)
    if data is None:  # velocity: of the straight path noise - data, else alpha noise - sigma data
        straight = process_name == "rectified_flow"
        data = x_t - sigma * output if straight else alpha * x_t - sigma * output
    implied_noise = (x_t - alpha * data) / sigma
    implied = {"data": data, "noise": implied_noise, "velocity": process.velocity(data, implied_noise, t)}
    target = prediction_target(process, latents, noise, t, loss)
    expected = (implied[loss] - target).square().mean((1, 3, 4))

    actual = diffusion_loss(process, output, latents, noise, t, config)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_min_t_bounds_the_weight_near_the_data() -> None:
    latents, noise, _ = example(2)
    config = DiffusionConfig(prediction="data", loss="velocity", min_t=0.05)
    loss = diffusion_loss(build_process(config), latents + 1, latents, noise, torch.tensor([0.05, 0.001]), config)
    torch.testing.assert_close(loss, torch.full((2, 2), 400.0))


def test_min_snr_is_its_published_form() -> None:
    """An error of the clean data weighed by min(SNR, gamma), which Hang et al. 2023 write for x0."""
    latents, noise, t = example()
    config = DiffusionConfig(process="cosine", prediction="data", loss="noise", weighting="min_snr", min_snr_gamma=5.0)
    process = build_process(config)
    output = latents + 0.1 * torch.randn_like(latents)
    snr = 1 / torch.tan(torch.pi / 2 * t).square()
    expected = snr.clamp(max=5)[:, None] * (output - latents).square().mean((1, 3, 4))
    torch.testing.assert_close(diffusion_loss(process, output, latents, noise, t, config), expected, rtol=1e-3, atol=0)


def test_a_time_per_frame_weighs_each_frame() -> None:
    latents, noise, _ = example(2)
    t = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    config = DiffusionConfig(prediction="data", loss="velocity")
    loss = diffusion_loss(build_process(config), latents + 1, latents, noise, t, config)
    torch.testing.assert_close(loss, 1 / t.square())


def test_bins_are_equal_parts() -> None:
    t = (torch.arange(NUM_BINS * 100) + 0.5) / (NUM_BINS * 100)
    assert bin_of(t).bincount().tolist() == [100] * NUM_BINS
    assert bin_of(torch.tensor([0.0, 0.12, 1.0])).tolist() == [0, 1, 8]
