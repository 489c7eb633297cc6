import torch
from random_inputs import random_text
from torch import Tensor

from video_dit.contracts import TextCondition
from video_dit.diffusion.guidance import guided_velocity


def denoiser(x_t: Tensor, t: Tensor, text: TextCondition) -> Tensor:
    return x_t * 0.5 + text.pooled.sum(-1).reshape(-1, 1, 1, 1, 1)


def test_guidance_is_its_formula_for_each_prompt() -> None:
    text, empty = random_text(2, 3, 4), random_text(2, 3, 4)
    x, t = torch.randn(2, 3, 2, 2, 2), torch.full((2,), 0.5)
    guided = guided_velocity(denoiser, text, empty, 3.0, "velocity", 0.05)(x, t)
    positive, negative = denoiser(x, t, text), denoiser(x, t, empty)
    torch.testing.assert_close(guided, negative + 3 * (positive - negative))


def test_guidance_of_one_is_the_plain_model_asked_once() -> None:
    text, empty = random_text(2, 3, 4), random_text(2, 3, 4)
    x, t = torch.randn(2, 3, 2, 2, 2), torch.full((2,), 0.5)
    batches = []

    def counting(x_t: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        batches.append(len(x_t))
        return denoiser(x_t, t, text)

    torch.testing.assert_close(
        guided_velocity(counting, text, empty, 1.0, "data", 0.05)(x, t), (x - denoiser(x, t, text)) / 0.5
    )
    assert batches == [2]
