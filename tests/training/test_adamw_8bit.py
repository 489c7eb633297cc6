import copy

import pytest
import torch
from torch import nn

from video_dit.training.adamw_8bit import BLOCK, AdamW8bit, code_values, dequantize, quantize

CPU = torch.device("cpu")
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


def test_codes_are_those_of_dynamic_quantization() -> None:
    """The outermost of those that bitsandbytes 0.50.2 makes (`create_dynamic_map`), where -1 is -0.99296875."""
    for signed, smallest in ((True, 5.5e-7), (False, 3.25e-7)):
        values = code_values(signed, CPU)
        assert len(values.unique()) == 256
        assert torch.equal(values, values.sort().values)
        assert float(values[values > 0][0]) == pytest.approx(smallest)
    assert code_values(True, CPU)[[0, 1, 127, 254, 255]].tolist() == pytest.approx(
        [-1.0, -0.97890625, 0.0, 0.99296875, 1.0]
    )
    assert code_values(False, CPU)[[0, 254]].tolist() == pytest.approx([0.0, 0.996484375])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("number", [3 * BLOCK, 3 * BLOCK + 7, 5])
def test_each_value_gets_the_nearest_code(signed: bool, number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(number, generator=generator) * torch.logspace(-3, 3, number)
    values = values if signed else values.abs()
    codes, scales = quantize(values, signed)
    table = code_values(signed, CPU)
    for start in range(0, number, BLOCK):
        block = values[start : start + BLOCK]
        scale = block.abs().max()
        assert scales[start // BLOCK] == scale
        nearest = (block[:, None] - scale * table).abs().amin(1)
        ours = (block - scale * table[codes[start : start + BLOCK].int()]).abs()
        torch.testing.assert_close(ours, nearest, rtol=1e-4, atol=1e-7 * float(scale))


@pytest.mark.parametrize("signed", [True, False])
def test_what_was_rounded_once_stays(signed: bool) -> None:
    """Else each checkpoint would change a run; blocks whose largest value is below 0 among them."""
    values = torch.randn(50 * BLOCK + 3, generator=torch.Generator().manual_seed(1))
    values[:BLOCK] = 0
    rounded = quantize(values if signed else values.abs(), signed)
    again = quantize(dequantize(*rounded, signed), signed)
    for one, other in zip(rounded, again, strict=True):
        assert torch.equal(one, other)


def test_a_mean_square_is_never_rounded_to_nothing() -> None:
    squares = torch.tensor([1.0, 1e-12, 0.0])
    assert (dequantize(*quantize(squares, signed=False), signed=False) > 0).tolist() == [True, True, False]


def gradients_of(step: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [1e-2 * torch.randn(shape, generator=generator) + 1e-2 for shape in shapes]


def test_it_steps_as_adamw_does() -> None:
    """The first step is the same, as nothing was rounded yet; later ones differ by the rounding."""
    shapes = ((40, 100), (7,))
    theirs = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    ours = copy.deepcopy(theirs)
    reference, quantized = torch.optim.AdamW(theirs, **SETTINGS), AdamW8bit(ours, **SETTINGS)
    for step in range(30):
        for sides in (theirs, ours):
            for parameter, gradient in zip(sides, gradients_of(step, *shapes), strict=True):
                parameter.grad = gradient
        reference.step()
        quantized.step()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6 if step == 0 else 0.02, atol=0)
    moved = torch.cat([(parameter - 1).flatten() for parameter in theirs])
    apart = torch.cat([(one - other).flatten() for one, other in zip(ours, theirs, strict=True)])
    assert apart.abs().mean() < 0.01 * moved.abs().mean()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (BLOCK, 64 * BLOCK):
        monkeypatch.setattr("video_dit.training.adamw_8bit.CHUNK", chunk)
        parameter = nn.Parameter(torch.ones(3 * BLOCK + 5))
        optimizer = AdamW8bit([parameter], **SETTINGS)
        for step in range(3):
            (parameter.grad,) = gradients_of(step, (3 * BLOCK + 5,))
            optimizer.step()
        results.append(parameter.detach())
    assert torch.equal(*results)


def test_expanding_and_compressing_change_nothing() -> None:
    parameter = nn.Parameter(torch.ones(10, 100))
    optimizer = AdamW8bit([parameter], **SETTINGS)
    (parameter.grad,) = gradients_of(0, (10, 100))
    optimizer.step()
    before = copy.deepcopy(optimizer.state[parameter])
    optimizer.expand()
    expanded = optimizer.state[parameter]
    assert expanded["exp_avg"].shape == expanded["exp_avg_sq"].shape == (10, 100)
    optimizer.compress()
    after = optimizer.state[parameter]
    assert after.keys() == before.keys()
    assert all(torch.equal(torch.as_tensor(after[key]), torch.as_tensor(before[key])) for key in before)
