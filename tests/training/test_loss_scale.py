"""fp16: the scale against PyTorch's, and steps under it against those in fp32."""

import json
from typing import NamedTuple

import pytest
import torch
from conftest import REPOSITORY, TINY
from launch import run_ranks

from video_dit.training.loss_scale import LossScale


class Result(NamedTuple):
    """What the program says of a run."""

    taken: list[list[float]]
    left_out: int
    scale: dict[str, float] | None
    kept: dict[str, float]

    @property
    def losses(self) -> list[float]:
        return [loss for loss, _ in self.taken]

    @property
    def norms(self) -> list[float]:
        return [norm for _, norm in self.taken]


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
def test_steps_in_16_bits_are_those_in_fp32() -> None:
    """Under fp16 from the first on whose gradient is finite: the scale begins at 2**24, where none is."""
    wanted = [(ADAMW, "fp32", 0), (MUON, "fp32", 0)]
    compared = [(ADAMW, "fp16", stage) for stage in (0, 2, 3)] + [(MUON, "fp16", stage) for stage in (0, 2)]
    compared += [(ADAMW, "bf16", stage) for stage in (0, 3)]
    keys = [
        json.dumps([*TINY, "model.depth=1", f"training.precision={precision}", f"training.zero_stage={stage}", *more])
        for more, precision, stage in wanted + compared
    ]
    said = run_ranks(2, REPOSITORY / "tests/steps_in_16_bits.py", *keys).splitlines()
    results = [Result(*json.loads(line)) for line in said if line.startswith("[[[")]
    references = {run[0]: result for run, result in zip(wanted, results[: len(wanted)], strict=True)}
    for (optimizer, precision, _), result in zip(compared, results[len(wanted) :], strict=True):
        reference = references[optimizer]
        assert result.losses == pytest.approx(reference.losses, abs=1e-3)
        assert result.norms == pytest.approx(reference.norms, rel=5e-3)
        assert result.kept == pytest.approx(reference.kept, rel=0.02)
        if precision == "fp16":
            assert result.left_out > 1
            assert result.scale["value"] == 2.0 ** (24 - result.left_out)
        else:
            assert (result.left_out, result.scale) == (0, None)
