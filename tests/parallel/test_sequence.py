"""One sequence on several ranks equals the same on one: outputs, losses and gradients.

As a program: one of the ranks.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from launch import run_ranks
from random_inputs import random_clip_info, random_text
from torch import Tensor

from video_dit.config import ModelConfig
from video_dit.models import VideoDiT
from video_dit.parallel import SequenceGroup
from video_dit.parallel.sequence import even_split
from video_dit.shapes import Grid

GRID = (3, 6, 6)
"""Of the latents; 27 tokens, which neither 2 nor 4 divides. Nor do they divide the 5 heads."""

WINDOW = {"attention_pattern": "window", "window_tile": [1, 2, 1], "window_size": [1, 1, 3]}
MODELS: dict[str, dict[str, Any]] = {
    "mmdit": {},
    "chunks, recomputed": {"feed_forward_chunk_size": 4, "recompute_blocks": 2},
    "learned places": {"rotary": False, "spatial_position": "learned", "temporal_position": "learned"},
    "one stream at the end": {"single_stream_blocks": 1},
    "three streams, dual attention": {"text_split": 2, "dual_attention_blocks": [0]},
    "factorised": {"attention_pattern": "factorised"},
    "window": WINDOW,
    "dit, in context": {"name": "dit", "dit_conditioning": "in_context"},
    "factorised dit": {"name": "dit", "attention_pattern": "factorised"},
    "cross_dit": {"name": "cross_dit"},
    "window cross_dit": {**WINDOW, "name": "cross_dit"},
    "u_vit": {"name": "u_vit", "depth": 3},
}


def random_model(keys: dict[str, Any]) -> VideoDiT:
    torch.manual_seed(0)
    config = ModelConfig(**{"patch_size": (1, 2, 2), "hidden_size": 40, "depth": 2, "num_heads": 5, **keys})
    model = VideoDiT(config, channels=3, text_width=6, pooled_width=6, trained_grid=Grid(3, 3, 3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def output_and_gradients(model: VideoDiT, per_frame: bool) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    t = torch.rand(2, 3 if per_frame else 1)
    latents, target = torch.randn(2, 2, 3, *GRID)
    output = model(latents, t, random_text(2, 5, 6), random_clip_info(2))
    model.zero_grad()
    (output - target).square().mean().backward()
    return output.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def compare() -> None:
    """The first rank computes what one rank gives, all compute their part."""
    dist.init_process_group("gloo")
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    for name, keys in MODELS.items():
        model = random_model(keys)
        for per_frame in (False, True) if model.config.has_adaptive_norms else (False,):
            expected = output_and_gradients(model, per_frame) if rank == 0 else None
            model.sequence_group = SequenceGroup(None, rank, num_ranks)
            output, gradients = output_and_gradients(model, per_frame)
            model.sequence_group = None
            expected_output = expected[0] if expected else torch.empty_like(output)
            dist.broadcast(expected_output, 0)
            torch.testing.assert_close(output, expected_output, msg=partial("{}: {}".format, name))
            for key, gradient in gradients.items():
                dist.reduce(gradient, 0)
                if expected:
                    told = partial("{}, {}: {}".format, name, key)
                    torch.testing.assert_close(gradient / num_ranks, expected[1][key], atol=1e-5, rtol=1e-4, msg=told)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_all_that_a_model_gives_is_that_of_one_rank(num_ranks: int) -> None:
    run_ranks(num_ranks, Path(__file__))


def test_even_splits() -> None:
    assert even_split(61, 2) == [31, 30]
    assert even_split(5, 4) == [2, 1, 1, 1]
    assert even_split(8, 4) == [2] * 4


if __name__ == "__main__":
    compare()
