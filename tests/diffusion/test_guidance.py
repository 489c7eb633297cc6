import pytest
import torch
from random_inputs import random_text
from torch import Tensor

from video_dit.config import DiffusionConfig
from video_dit.contracts import TextCondition
from video_dit.diffusion.guidance import Guidance, guided_velocity
from video_dit.diffusion.processes import build_process

PROCESS = build_process(DiffusionConfig())
METHODS = ["cfg", "cfg_zero_star", "apg"]


def denoiser(x_t: Tensor, t: Tensor, text: TextCondition) -> Tensor:
    return torch.sin(x_t * (1 + text.pooled.sum(-1).reshape(-1, 1, 1, 1, 1))) + t.reshape(-1, 1, 1, 1, 1)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, TextCondition, TextCondition]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 2, 2, 2), torch.full((2,), 0.5), random_text(2, 3, 4), random_text(2, 3, 4)


def guided(inputs: tuple, guidance: Guidance, prediction: str = "velocity", process: object = PROCESS) -> Tensor:
    x, t, text, empty = inputs
    return guided_velocity(denoiser, text, empty, guidance, process, prediction, 0.05)(x, t)


def test_cfg_is_its_formula_for_each_prompt(inputs: tuple) -> None:
    x, t, text, empty = inputs
    positive, negative = denoiser(x, t, text), denoiser(x, t, empty)
    torch.testing.assert_close(guided(inputs, Guidance(scale=3.0)), negative + 3 * (positive - negative))


def test_cfg_zero_star_is_its_formula_for_each_clip(inputs: tuple) -> None:
    """arXiv 2503.18886: (1 - w) s v_uncond + w v_cond with s = <v_cond, v_uncond> / |v_uncond|^2."""
    x, t, text, empty = inputs
    expected = []
    for positive, negative in zip(denoiser(x, t, text), denoiser(x, t, empty), strict=True):
        s = torch.dot(positive.flatten(), negative.flatten()) / negative.norm() ** 2
        expected.append((1 - 3) * s * negative + 3 * positive)
    torch.testing.assert_close(guided(inputs, Guidance(scale=3.0, method="cfg_zero_star")), torch.stack(expected))


@pytest.mark.parametrize("process", ["rectified_flow", "cosine"])
def test_apg_moves_the_clean_latents_at_right_angles_only(inputs: tuple, process: str) -> None:
    x, t, text, empty = inputs
    process = build_process(DiffusionConfig(process=process))
    velocities = guided(inputs, Guidance(3.0, "apg"), process=process), denoiser(x, t, text), denoiser(x, t, empty)
    moved, positive, negative = (process.split(x, v, t).latents.flatten(1) for v in velocities)
    torch.testing.assert_close(((moved - positive) * positive).sum(1), torch.zeros(2), atol=1e-4, rtol=0)
    direction = positive - negative
    direction = direction - (direction * positive).sum(1, True) / (positive**2).sum(1, True) * positive
    torch.testing.assert_close(moved - positive, 2 * direction, atol=1e-4, rtol=1e-4)


def test_apg_cuts_long_differences_and_remembers_earlier_ones(inputs: tuple) -> None:
    x, t, text, empty = inputs
    latents = PROCESS.split(x, denoiser(x, t, text), t).latents.flatten(1)
    for norm in (0.1, 0.05):
        moved = PROCESS.split(x, guided(inputs, Guidance(2.0, "apg", apg_norm=norm)), t).latents.flatten(1)
        assert bool(((moved - latents).square().mean(1).sqrt() <= norm * 1.001).all())
    field = guided_velocity(denoiser, text, empty, Guidance(2.0, "apg", apg_momentum=-0.5), PROCESS, "velocity", 0.05)
    first, second = (PROCESS.split(x, field(x, t), t).latents.flatten(1) - latents for _ in range(2))
    torch.testing.assert_close(second, first / 2, atol=1e-5, rtol=1e-4)


def test_rescaled_clips_have_the_contrast_of_the_prompt_s_answer(inputs: tuple) -> None:
    """Lin et al. 2023, equations 14 to 16."""
    x, t, text, _ = inputs

    def std(velocity: Tensor) -> Tensor:
        return PROCESS.split(x, velocity, t).latents.flatten(1).std(1)

    plain, whole, half = (guided(inputs, Guidance(4.0, rescale=share)) for share in (0.0, 1.0, 0.5))
    positive = std(denoiser(x, t, text))
    assert not torch.allclose(std(plain), positive)
    torch.testing.assert_close(std(whole), positive)
    torch.testing.assert_close(std(half), (std(plain) + positive) / 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
@pytest.mark.parametrize("process", ["rectified_flow", "edm"])
def test_guidance_of_almost_one_is_almost_none(inputs: tuple, method: str, prediction: str, process: str) -> None:
    """A scale of 1 takes a short cut, which the formulas must agree with."""
    process = build_process(DiffusionConfig(process=process))
    none = guided(inputs, Guidance(1.0, method, rescale=0.7), prediction, process)
    almost = guided(inputs, Guidance(1.0 + 1e-6, method, rescale=0.7), prediction, process)
    torch.testing.assert_close(almost, none, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(none, guided(inputs, Guidance(), prediction, process))


@pytest.mark.parametrize("method", METHODS)
def test_both_passes_in_one_batch_or_apart(inputs: tuple, method: str) -> None:
    together, apart = (guided(inputs, Guidance(3.0, method, batched=batched)) for batched in (True, False))
    torch.testing.assert_close(together, apart)


def test_outside_the_interval_the_network_is_asked_once(inputs: tuple) -> None:
    x, _, text, empty = inputs
    asked = []

    def counting(x_t: Tensor, t: Tensor, condition: TextCondition) -> Tensor:
        asked.append(len(x_t))
        return denoiser(x_t, t, condition)

    field = guided_velocity(counting, text, empty, Guidance(3.0, interval=(0.3, 0.6)), PROCESS, "velocity", 0.05)
    for t in (0.2, 0.35, 0.55, 0.7):
        outside = t in (0.2, 0.7)
        velocity = field(x, torch.full((2,), t))
        assert asked.pop() == (2 if outside else 4)
        assert torch.allclose(velocity, denoiser(x, torch.full((2,), t), text)) == outside


@pytest.mark.parametrize("guidance", [Guidance(3.0, "cfg_zero_star"), Guidance(3.0, "apg"), Guidance(3.0, rescale=0.7)])
def test_what_the_network_answers_on_given_frames_changes_no_other(inputs: tuple, guidance: Guidance) -> None:
    """Given frames count for nothing in the loss, so that the answers there mean nothing."""
    x, t, text, empty = inputs
    made = torch.tensor([False, True])

    def answers(on_given: float) -> Tensor:
        def with_arbitrary(x_t: Tensor, t: Tensor, condition: TextCondition) -> Tensor:
            output = denoiser(x_t, t, condition)
            output[:, :, 0] = on_given * condition.pooled.sum(-1)[:, None, None, None]
            return output

        return guided_velocity(with_arbitrary, text, empty, guidance, PROCESS, "velocity", 0.05, made)(x, t)[:, :, 1]

    torch.testing.assert_close(answers(0.0), answers(5.0))
