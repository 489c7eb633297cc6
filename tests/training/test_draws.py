from typing import Any

import pytest
import torch
from random_inputs import random_clip_info, random_text

from video_dit.config import Config
from video_dit.contracts import Batch, TextSegment
from video_dit.training.draws import draw, drop_conditions, trim_padding

SEEDS = torch.tensor([11, 22, 33, 44])


def batch_of(seeds: torch.Tensor, num_frames: int = 4) -> Batch:
    text, clip = random_text(len(seeds), 3, 4), random_clip_info(len(seeds))
    latents = torch.zeros(len(seeds), 3, num_frames, 2, 2)
    places = torch.tensor([(place, len(seeds)) for place in range(len(seeds))])
    return Batch(latents, text, clip, seeds, places, ("",) * len(seeds))


def config_of(model: dict[str, Any] | None = None, **diffusion: Any) -> Config:
    model = {"patch_size": (1, 1, 1), **(model or {})}
    return Config.model_validate({"model": model, "diffusion": diffusion, "training": {"batch_size": 4}})


EVERYTHING = {"condition_dropout": 0.5, "encoder_dropout": (0.5, 0.5), "per_frame_noise": True, "first_frame": 0.5}


def test_draws_depend_on_the_seed_alone() -> None:
    config = config_of(**EVERYTHING)
    together = draw(batch_of(SEEDS), config, 2)
    for rows in ([2], [3, 1], [0, 2, 3]):
        for ours, theirs in zip(draw(batch_of(SEEDS[rows]), config, 2), together, strict=True):
            assert torch.equal(ours, theirs[rows])


def test_draws_do_not_depend_on_where_latents_are() -> None:
    batch = batch_of(SEEDS)
    elsewhere = draw(batch._replace(latents=batch.latents.to("meta")), config_of(**EVERYTHING), 2)
    for ours, theirs in zip(elsewhere, draw(batch, config_of(**EVERYTHING), 2), strict=True):
        assert torch.equal(ours, theirs)


def test_another_objective_sees_the_same_noise() -> None:
    """What is dropped or given changes nothing else, so that runs can be compared."""
    never, always = (draw(batch_of(SEEDS), config_of(condition_dropout=share)) for share in (0.0, 1.0))
    given = draw(batch_of(SEEDS), config_of({"given_frames": True}, first_frame=1.0))
    cosine = draw(batch_of(SEEDS), config_of(process="cosine", timestep_sampler="cosmap"))
    for other in (always, given, cosine):
        assert torch.equal(never.noise, other.noise)
    assert torch.equal(never.t, always.t)
    assert torch.equal(never.t, given.t)
    assert not never.dropped.any()
    assert always.dropped.all()


def test_shares_are_as_configured() -> None:
    """Within four standard deviations: each encoder by itself, then all of them; and each way of giving frames."""
    config = config_of(
        {"given_frames": True}, condition_dropout=0.1, encoder_dropout=(0.3, 0.6),
        first_frame=0.2, first_and_last_frame=0.3, continuation=0.25,
    )  # fmt: skip
    _, _, given, dropped = draw(batch_of(torch.arange(4000), num_frames=8), config, 2)
    measured = {
        0.1 + 0.9 * 0.3: dropped[:, 0],
        0.1 + 0.9 * 0.6: dropped[:, 1],
        0.1 + 0.9 * 0.3 * 0.6: dropped.all(1),
        0.3: given[:, -1],
        0.2 + 0.25 / 4: (given.sum(1) == 1) & given[:, 0],  # a continuation has 1 to 4 of 8 frames, as likely each
        0.25 / 4: given[:, :4].all(1),
        0.25: ~given.any(1),
    }
    for share, rows in measured.items():
        assert abs(float(rows.float().mean()) - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert int(given.sum(1).max()) == 4


@pytest.mark.parametrize("task", ["first_frame", "first_and_last_frame", "continuation"])
@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_a_frame_is_left_to_be_made(task: str, num_frames: int) -> None:
    config = config_of({"given_frames": True}, **{task: 1.0})
    given = draw(batch_of(torch.arange(50), num_frames), config).given
    assert not given.all(1).any()


def test_stratified_timesteps_are_spread_over_the_batch() -> None:
    config = config_of(stratified=True, timestep_sampler="uniform", shift=1.0)
    t = draw(batch_of(SEEDS), config).t[:, 0]
    assert (t * 4).long().tolist() == [0, 1, 2, 3]
    last_two = batch_of(SEEDS)
    last_two = last_two._replace(latents=last_two.latents[2:], seeds=SEEDS[2:], places=last_two.places[2:])
    assert torch.equal(draw(last_two, config).t[:, 0], t[2:])  # on another rank


def test_each_frame_of_tokens_has_its_own_time() -> None:
    draws = draw(batch_of(SEEDS, num_frames=8), config_of({"patch_size": (2, 1, 1)}, per_frame_noise=True))
    assert draws.t.shape == (4, 4)
    assert draws.t.unique().numel() == 16
    assert torch.equal(draws.t_of_frames()[:, [0, 2, 4, 6]], draws.t)
    assert torch.equal(draws.t_of_frames()[:, [1, 3, 5, 7]], draws.t)


def test_given_frames_are_clean() -> None:
    draws = draw(batch_of(SEEDS), config_of({"given_frames": True}, first_and_last_frame=1.0))
    assert draws.t_of_frames().bool().tolist() == [[False, True, True, False]] * 4


def test_longer_clips_are_shifted_further() -> None:
    config = config_of(shift_tokens=16, shift=1.0)  # 4 frames of 2 x 2
    short, long = (draw(batch_of(SEEDS, num_frames), config).t for num_frames in (4, 16))
    torch.testing.assert_close(long / (1 - long), 2 * short / (1 - short))


def test_each_encoder_s_text_is_dropped_by_itself() -> None:
    """Two encoders side by side on the first three tokens, a third behind them, as in SD3."""
    text, empty = random_text(4, 5, 6, lengths=[5, 4, 5, 5]), random_text(1, 5, 6, lengths=[4])
    segments = (
        TextSegment((0, 3), (0, 2), (0, 1), "l"), TextSegment((0, 3), (2, 4), (1, 3), "g"),
        TextSegment((3, 5), (0, 6), (3, 6), "t5"),
    )  # fmt: skip
    dropped = torch.tensor([[True, False, False], [False, True, False], [False, False, True], [False] * 3])
    result = drop_conditions(text, empty, dropped, segments)
    for row in range(3):
        (t0, t1), (c0, c1), (p0, p1), _ = segments[row]
        assert torch.equal(result.embeds[row, t0:t1, c0:c1], empty.embeds[0, t0:t1, c0:c1])
        assert torch.equal(result.pooled[row, p0:p1], empty.pooled[0, p0:p1])
        changed = result.embeds[row] != text.embeds[row]
        changed[t0:t1, c0:c1] = False
        assert not changed.any()
    assert result.mask[2].tolist() == [True, True, True, True, False]
    for tensor, before in zip(result, text, strict=True):
        assert torch.equal(tensor[3], before[3])


def test_only_columns_that_are_padding_everywhere_are_trimmed() -> None:
    text = random_text(3, 6, 5, lengths=[1, 4, 2])
    trimmed = trim_padding(text)
    assert trimmed.mask.shape == (3, 4)
    assert trimmed.mask.sum() == text.mask.sum()
    assert torch.equal(trimmed.embeds, text.embeds[:, :4])
