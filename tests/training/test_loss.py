"""What a batch costs, with models that are functions."""

from typing import Any

import pytest
import torch
from random_inputs import random_clip_info, random_text
from torch import Tensor, nn

from video_dit.config import Config
from video_dit.contracts import Batch, TextSegment
from video_dit.errors import UserError
from video_dit.training.draws import draw
from video_dit.training.loss import LossFunction, means
from video_dit.training.validation import NOISE_RATIOS, validate

SEGMENTS = (TextSegment((0, 3), (0, 4), (0, 4), "hash"),)


class Recorder(nn.Module):
    """Answers with zeros, and remembers what it was asked."""

    def forward(self, x_t: Tensor, t: Tensor, text: Any, clip: Any, given: Tensor | None) -> Tensor:
        self.x_t, self.t, self.given = x_t, t, given
        return torch.zeros_like(x_t)


def batch_of(size: int = 6, num_frames: int = 4) -> Batch:
    torch.manual_seed(0)
    latents = torch.randn(size, 3, num_frames, 2, 2)
    rest = torch.arange(size), torch.zeros(size, 2), ("",) * size
    return Batch(latents, random_text(size, 3, 4), random_clip_info(size), *rest)


def loss_of(**tables: Any) -> LossFunction:
    tables["model"] = {"patch_size": (1, 1, 1), **tables.get("model", {})}
    return LossFunction(Config.model_validate(tables), random_text(1, 3, 4), SEGMENTS, torch.device("cpu"))


def test_the_mean_over_the_bins_is_the_loss() -> None:
    loss_function, batch = loss_of(diffusion={"prediction": "velocity"}), batch_of(64)
    mean, of_samples, by_bin = loss_function(Recorder(), batch)
    assert torch.equal(of_samples.mean(), mean)
    noise = draw(batch, loss_function.config).noise
    assert float(mean) == pytest.approx(float((noise - batch.latents).square().mean()), rel=1e-5)
    total, count = by_bin.sum(1).tolist()
    assert count == 64 * 4
    assert total / count == pytest.approx(float(mean), rel=1e-5)


def test_given_frames_are_shown_clean_and_cost_nothing() -> None:
    loss_function = loss_of(
        model={"given_frames": True}, diffusion={"prediction": "velocity", "first_and_last_frame": 1.0}
    )
    model, batch = Recorder(), batch_of()
    mean, _, by_bin = loss_function(model, batch)
    assert torch.equal(model.x_t[:, :, [0, 3]], batch.latents[:, :, [0, 3]])
    assert model.given.tolist() == [[True, False, False, True]] * 6
    noise = draw(batch, loss_function.config).noise
    expected = (noise - batch.latents)[:, :, 1:3].square().mean()
    assert float(mean) == pytest.approx(float(expected), rel=1e-5)
    assert by_bin[1].sum() == 6 * 2


def test_diffusion_forcing_tells_the_model_that_given_frames_are_clean() -> None:
    loss_function = loss_of(diffusion={"per_frame_noise": True, "first_frame": 1.0})
    model = Recorder()
    loss_function(model, batch_of())
    assert model.given is None
    assert model.t.shape == (6, 4)
    assert not model.t[:, 0].any()
    assert model.t[:, 1:].all()


def test_validation_has_the_same_noise_whatever_the_batches_are() -> None:
    """And fills batches with rows that do not count."""
    loss_function, batch = loss_of(diffusion={"prediction": "velocity"}), batch_of(4)

    def part(rows: list[int]) -> Batch:
        take = lambda fields: type(fields)(*(x[rows] for x in fields))  # noqa: E731
        numbers = batch.seeds[rows], batch.places[rows]
        return Batch(batch.latents[rows], take(batch.text), take(batch.clip), *numbers, ("",) * len(rows))

    whole = validate(Recorder(), loss_function, [(batch, torch.ones(4, dtype=torch.bool))])
    filled = [(part([3, 0, 1]), torch.ones(3, dtype=torch.bool)), (part([2, 2, 2]), torch.tensor([True, False, False]))]
    torch.testing.assert_close(validate(Recorder(), loss_function, filled), whole)
    assert whole.by_bin[1].tolist() == [4 * 4] * 9
    assert whole.data_error[1].tolist() == [4 * 4] * len(NOISE_RATIOS)


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
@pytest.mark.parametrize("process", ["rectified_flow", "cosine", "edm", "ldm_linear"])
def test_the_error_of_the_data_is_the_same_question_to_every_process_and_prediction(
    process: str, prediction: str
) -> None:
    """A model that takes the data for zero is wrong by the data; all is noise to it, as much as is in x_t."""
    loss_function = loss_of(
        diffusion={"process": process, "prediction": prediction, "weighting": "min_snr", "min_snr_gamma": 0.1}
    )
    batch = batch_of(4)

    class SeesNoData(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, *_: Any) -> Tensor:
            alpha, sigma = (c[:, :, None, None, None] for c in loss_function.process.coefficients(t))
            of_straight_path = x_t / sigma
            return {
                "data": torch.zeros_like(x_t),
                "noise": of_straight_path,
                "velocity": of_straight_path if process == "rectified_flow" else alpha * of_straight_path,
            }[prediction]

    found = validate(SeesNoData(), loss_function, [(batch, torch.ones(4, dtype=torch.bool))])
    expected = float(batch.latents.square().mean())
    assert means(found.data_error) == pytest.approx([expected] * len(NOISE_RATIOS), rel=1e-4)


def test_shares_for_another_number_of_encoders_are_refused() -> None:
    with pytest.raises(UserError, match=r"encoder_dropout has 2 shares, .* 1 text encoders \(hash\)"):
        loss_of(diffusion={"encoder_dropout": [0.4, 0.4]})


def test_a_part_of_t_that_was_not_drawn_has_no_mean() -> None:
    assert means(torch.tensor([[3.0, 0.0], [2.0, 0.0]])) == [1.5, None]
