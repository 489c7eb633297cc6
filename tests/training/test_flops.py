"""The closed form against torch's counter, which sees every matrix product of a real step."""

import pytest
import torch
from random_inputs import random_clip_info, random_text
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_dit.config import ModelConfig
from video_dit.models import VideoDiT
from video_dit.shapes import Grid
from video_dit.training.flops import step_flops

SMALL = {"hidden_size": 48, "depth": 3, "num_heads": 2, "patch_size": (1, 2, 2)}
MODELS = {
    "mmdit": {},
    "sd3.5": {"dual_attention_blocks": (0, 1), "text_split": 3, "depth": 4},
    "single stream": {"single_stream_blocks": 2, "conditions": ("fps", "size")},
    "factorised": {"attention_pattern": "factorised"},
    "window": {"attention_pattern": "window", "window_tile": (1, 2, 2), "window_size": (3, 1, 3)},
    "dit": {"name": "dit", "attention_pattern": "factorised"},
    "in context": {"name": "dit", "dit_conditioning": "in_context"},
    "cross_dit": {"name": "cross_dit"},
    "u_vit": {"name": "u_vit"},
    "chunked": {"feed_forward_chunk_size": 20},
    "recomputed": {"recompute_blocks": 2},
    "recomputed through time": {"recompute_blocks": 2, "attention_pattern": "factorised"},
    "both": {"recompute_blocks": 2, "feed_forward_chunk_size": 20, "name": "cross_dit"},
}


def counted(model: VideoDiT, grid: Grid, text_length: int, batch: int, num_timesteps: int = 1) -> int:
    """By torch, of a forward and backward pass."""
    latents = torch.randn(batch, 4, grid.frames, 2 * grid.height, 2 * grid.width)
    text = random_text(batch, text_length, 24)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(latents, torch.rand(batch, num_timesteps), text, random_clip_info(batch)).square().mean().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
def test_the_closed_form_is_what_torch_counts(keys: dict) -> None:
    grid, batch, text_length = Grid(3, 4, 6), 2, 11
    model = VideoDiT(ModelConfig(**{**SMALL, **keys}), channels=4, text_width=24, pooled_width=24, trained_grid=grid)
    flops = step_flops(model, grid, text_length)
    assert flops.model + flops.recomputed == pytest.approx(counted(model, grid, text_length, batch) / batch, rel=0.02)
    assert (flops.recomputed > 0) == ("recompute_blocks" in keys or "feed_forward_chunk_size" in keys)


@pytest.mark.parametrize("name", ["mmdit", "single stream", "factorised", "dit", "cross_dit", "recomputed"])
def test_timesteps_of_frames_are_counted(name: str) -> None:
    """Where each frame has its own, and where frames that are given have another."""
    grid, batch, text_length = Grid(8, 2, 2), 2, 11
    keys = {**SMALL, **MODELS[name]}
    model = VideoDiT(ModelConfig(**keys), channels=4, text_width=24, pooled_width=24, trained_grid=grid)
    flops = step_flops(model, grid, text_length, per_frame_noise=True)
    expected = counted(model, grid, text_length, batch, grid.frames) / batch
    assert flops.model + flops.recomputed == pytest.approx(expected, rel=0.005)
    keys["given_frames"] = True
    model = VideoDiT(ModelConfig(**keys), channels=4, text_width=24, pooled_width=24, trained_grid=grid)
    flops = step_flops(model, grid, text_length)
    assert flops.model + flops.recomputed == pytest.approx(counted(model, grid, text_length, batch) / batch, rel=0.005)


def test_weights_that_are_not_trained_have_no_gradient_to_compute() -> None:
    """With embedders that are trained, the gradients of all inputs are computed."""
    grid, batch, text_length = Grid(3, 4, 6), 2, 11
    model = VideoDiT(ModelConfig(**SMALL), channels=4, text_width=24, pooled_width=24, trained_grid=grid)
    whole = step_flops(model, grid, text_length)
    model.backbone.requires_grad_(False)
    flops = step_flops(model, grid, text_length)
    assert flops.model == pytest.approx(counted(model, grid, text_length, batch) / batch, rel=0.02)
    assert flops.linear < 0.75 * whole.linear
