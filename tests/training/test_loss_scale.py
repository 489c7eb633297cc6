"""fp16: the scale against PyTorch's, and steps under it against those in fp32."""

import json

import pytest
import torch
from conftest import REPOSITORY, TINY
from launch import run_ranks

from video_dit.training.loss_scale import LossScale

ADAMW = ("training.gradient_clipping=1e-6",)  # so small that AdamW's epsilon tells how far it was clipped
MUON = ("training.optimizer=muon", "training.gradient_clipping=0")


def test_the_scale_is_that_of_pytorch() -> None:
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu")
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for step in range(3200):
        is_finite = step not in (0, 1, 1100)
        assert theirs.scale(torch.ones(1)).item() == ours.value
        weight.grad = torch.tensor([1.0 if is_finite else torch.inf])
        theirs.step(optimizer)
        theirs.update()
        ours.update(is_finite)
        goes_on = LossScale()
        goes_on.load(json.loads(json.dumps(ours.state())))
        ours = goes_on
    assert ours.value == 2.0**14


def test_the_scale_stays_at_one() -> None:
    scale = LossScale()
    for _ in range(20):
        scale.update(False)
    assert scale.value == 1


@pytest.mark.slow
@pytest.mark.distributed
def test_steps_under_fp16_are_those_in_fp32() -> None:
    """From the first on whose gradient is finite: the scale begins at 2**24, where none is."""
    runs = [
        (settings, precision, f"training.zero_stage={stage}")
        for settings, stages in ((ADAMW, (0, 2, 3)), (MUON, (0, 2)))
        for precision, of_precision in (("fp32", (0,)), ("fp16", stages))
        for stage in of_precision
    ]
    keys = [
        json.dumps([*TINY, "model.depth=1", f"training.precision={precision}", *settings, stage])
        for settings, precision, stage in runs
    ]
    said = run_ranks(2, REPOSITORY / "tests/fp16_steps.py", *keys).splitlines()
    results = [json.loads(line) for line in said if line.startswith("[[[")]
    expected = {}
    for (settings, precision, _), (taken, left_out, scale) in zip(runs, results, strict=True):
        losses, norms = zip(*taken, strict=True)
        if precision == "fp32":
            expected[settings] = losses, norms
            assert (left_out, scale) == (0, None)
            continue
        assert losses == pytest.approx(expected[settings][0], abs=1e-3)
        assert norms == pytest.approx(expected[settings][1], rel=5e-3)
        assert left_out > 1
        assert scale["value"] == 2.0 ** (24 - left_out)
