import pytest
import torch
from random_inputs import random_clip_info, random_text
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.contracts import ClipInfo, TextCondition
from video_dit.models import VideoDiT
from video_dit.models.step_cache import StepCache
from video_dit.shapes import Grid

ALWAYS, NEVER = 1e9, 1e-9
"""Thresholds under which blocks are skipped whenever they can be, and only where nothing changed at all."""


BACKBONES = {
    "mmdit": {},
    "mmdit, one stream at the end": {"single_stream_blocks": 1},
    "mmdit, a timeline for each clip": {"reference_fps": 8.0},
    "mmdit, factorised": {"attention_pattern": "factorised"},
    "mmdit, window": {"attention_pattern": "window", "window_tile": (1, 2, 1), "window_size": (1, 1, 3)},
    "dit": {"name": "dit"},
    "dit, cross-attention": {"name": "dit", "dit_conditioning": "cross_attention"},
    "cross_dit": {"name": "cross_dit"},
    "u_vit": {"name": "u_vit"},
}
Batch = tuple[Tensor, Tensor, TextCondition, ClipInfo]


def model_of(**keys: object) -> VideoDiT:
    torch.manual_seed(0)
    config = ModelConfig(**{"patch_size": (1, 2, 2), "hidden_size": 24, "depth": 3, "num_heads": 2, **keys})  # type: ignore[arg-type]
    model = VideoDiT(config, channels=3, text_width=6, pooled_width=6, trained_grid=Grid(3, 2, 3))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def cached(threshold: float, **keys: object) -> tuple[VideoDiT, StepCache, list[int]]:
    """A model with a step cache, and a list of how many clips its last block saw in each call."""
    model = model_of(**keys)
    clips_seen: list[int] = []
    model.backbone.blocks[-1].register_forward_pre_hook(lambda _, arguments: clips_seen.append(len(arguments[0])))
    model.backbone = StepCache(model.backbone)
    model.backbone.start(threshold)
    return model, model.backbone, clips_seen


def random_batch(size: int, lengths: list[int] | None = None) -> Batch:
    torch.manual_seed(1)
    text = random_text(size, 5, 6, lengths)
    return torch.randn(size, 3, 3, 4, 6), torch.rand(size), text, random_clip_info(size)


def changed(batch: Batch, by: Tensor | float) -> Batch:
    return batch[0] + by, *batch[1:]


def only(row: int, batch: Batch) -> Batch:
    latents, t, text, clip = batch
    text, clip = (type(parts)(*(part[row][None] for part in parts)) for parts in (text, clip))
    return latents[row][None], t[row][None], text, clip


@pytest.mark.parametrize("keys", BACKBONES.values(), ids=BACKBONES)
def test_with_a_threshold_that_nothing_meets_the_values_are_the_same(keys: dict) -> None:
    model, cache, clips_seen = cached(NEVER, **keys)
    plain, batch = model_of(**keys), random_batch(2, lengths=[5, 3])
    for step in range(3):
        assert torch.equal(model(*changed(batch, step)), plain(*changed(batch, step)))
    assert clips_seen == [2, 2, 2]
    assert (cache.num_seen, cache.num_skipped) == (6, 0)


@pytest.mark.parametrize("keys", BACKBONES.values(), ids=BACKBONES)
def test_the_other_blocks_add_what_they_added_before(keys: dict) -> None:
    model, cache, clips_seen = cached(ALWAYS, **keys)
    batch = random_batch(2, lengths=[5, 3])
    first = model(*batch)
    torch.testing.assert_close(model(*batch), first)
    assert clips_seen == [2]
    assert not torch.allclose(model(*changed(batch, 1.0)), first)  # the first block and the ends still run
    assert clips_seen == [2]
    assert (cache.num_seen, cache.num_skipped) == (6, 4)
    cache.start(ALWAYS)
    model(*batch)
    assert clips_seen == [2, 2]


@pytest.mark.parametrize("keys", BACKBONES.values(), ids=BACKBONES)
def test_each_clip_decides_for_itself(keys: dict) -> None:
    model, cache, clips_seen = cached(0.05, **keys)
    batch = random_batch(3, lengths=[5, 3, 4])
    one_moved = changed(batch, torch.randn(3, 3, 4, 6) * torch.tensor([0, 1, 0]).view(3, 1, 1, 1, 1))
    steps = [batch, one_moved, one_moved, batch]
    together = [model(*step) for step in steps]
    assert clips_seen == [3, 1, 1]
    torch.testing.assert_close(together[2], together[1])
    for row in range(3):
        cache.start(0.05)
        for step, output in zip(steps, together, strict=True):
            torch.testing.assert_close(model(*only(row, step)), output[row][None])


def test_a_change_counts_from_the_clip_s_last_full_step() -> None:
    """One clip drifts slowly, and is skipped until it has come far; the other jumps at every step."""
    batch, drift = random_batch(2), torch.randn(3, 3, 4, 6)
    jumps = torch.randn(100, 3, 3, 4, 6) * 5
    model, cache, clips_seen = cached(0.05)
    for step in range(100):
        model(*only(0, changed(batch, step * 4e-3 * drift)))
    num_full = len(clips_seen)
    assert 1 < num_full < 50
    cache.start(0.05)
    clips_seen.clear()
    for step in range(100):
        model(*changed(batch, torch.stack((step * 4e-3 * drift, jumps[step]))))
    assert sum(clips_seen) == num_full + 100


def test_each_asker_has_a_memory_of_its_own() -> None:
    model, cache, clips_seen = cached(ALWAYS)
    batch = random_batch(2)
    askers = [batch, changed(batch, 1.0)]
    fresh = []
    for asker in askers:
        cache.asked_by(asker)
        fresh.append(model(*asker))
    assert clips_seen == [2, 2]
    for asker, expected in zip(askers, fresh, strict=True):
        cache.asked_by(asker)
        torch.testing.assert_close(model(*asker), expected)
    assert clips_seen == [2, 2]
