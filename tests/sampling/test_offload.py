from pathlib import Path

import pytest
import torch
from conftest import TINY
from random_run import random_run
from torch import nn

from video_dit.config import load_config
from video_dit.sampling.offload import offload_blocks
from video_dit.sampling.pipeline import VideoPipeline


def test_offloaded_blocks_give_the_same_clips(tmp_path: Path) -> None:
    run = random_run(tmp_path, load_config(None, (*TINY, "model.attention_pattern=factorised")))
    clips = [
        VideoPipeline.from_run(run, "cpu", offload=offload)("a", num_steps=2, step_cache=0.01)
        for offload in (False, True)
    ]
    assert torch.equal(*clips)


def test_weights_are_fetched_for_a_block_s_run_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`to` is made to copy, as it does to another device."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.randn(5, 3)
    expected, block = model(x), model[1]
    home = block.weight.data_ptr()
    fetched = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: to(tensor, *args, **kwargs).clone())
    offload_blocks(model, [block], torch.device("cpu"))
    block.register_forward_pre_hook(lambda *_: fetched.append(block.weight.data_ptr()))
    assert block.weight.data_ptr() == home
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
    assert len(fetched) == 1
    assert fetched[0] != home
    assert block.weight.data_ptr() == home
