import torch
from random_inputs import random_clip_info, random_text

from video_dit.config import DiffusionConfig
from video_dit.contracts import Batch
from video_dit.training.draws import draw, drop_conditions, trim_padding

SEEDS = torch.tensor([11, 22, 33, 44])


def batch_of(seeds: torch.Tensor) -> Batch:
    return Batch(
        torch.zeros(len(seeds), 3, 2, 4, 4), random_text(len(seeds), 3, 4), random_clip_info(len(seeds)), seeds
    )


def test_draws_depend_on_the_seed_alone() -> None:
    together = draw(batch_of(SEEDS), DiffusionConfig())
    for rows in ([2], [3, 1], [0, 2, 3]):
        for ours, theirs in zip(draw(batch_of(SEEDS[rows]), DiffusionConfig()), together, strict=True):
            assert torch.equal(ours, theirs[rows])


def test_another_model_sees_the_same_noise_at_the_same_time() -> None:
    """A share of dropped conditions changes what is dropped and nothing else, so that runs can be compared."""
    never, always = (draw(batch_of(SEEDS), DiffusionConfig(condition_dropout=share)) for share in (0.0, 1.0))
    assert torch.equal(never.noise, always.noise)
    assert torch.equal(never.t, always.t)
    assert not never.drop_condition.any()
    assert always.drop_condition.all()


def test_the_share_of_dropped_conditions_is_as_configured() -> None:
    batch = Batch(torch.zeros(4000, 1, 1, 1, 1), random_text(1, 1, 1), random_clip_info(1), torch.arange(4000))
    share = draw(batch, DiffusionConfig(condition_dropout=0.3)).drop_condition.float().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5


def test_dropped_rows_become_the_empty_prompt() -> None:
    text, empty = random_text(3, 4, 5), random_text(1, 4, 5, lengths=[1])
    dropped = drop_conditions(text, empty, torch.tensor([False, True, False]))
    for before, nothing, after in zip(text, empty, dropped, strict=True):
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert torch.equal(after[1], nothing[0])


def test_only_columns_that_are_padding_everywhere_are_trimmed() -> None:
    text = random_text(3, 6, 5, lengths=[1, 4, 2])
    trimmed = trim_padding(text)
    assert trimmed.mask.shape == (3, 4)
    assert trimmed.mask.sum() == text.mask.sum()
    assert torch.equal(trimmed.embeds, text.embeds[:, :4])
