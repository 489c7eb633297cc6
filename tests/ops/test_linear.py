"""Against products in float64, and by which library's products they are."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from video_dit.ops import linear
from video_dit.ops.linear import Linear, is_zen_5, keeps_fp32, onednn_is_faster


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


class Products(TorchDispatchMode):
    """Keeps the setting that each product was computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.settings.append(setting())
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def setting_that_comes_back() -> Iterator[None]:
    yield
    assert setting() == "none"


@pytest.fixture
def on_zen_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)


@pytest.fixture(params=[True, False], ids=["on Zen 5", "elsewhere"])
def on_a_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linear, "is_zen_5", lambda _: request.param)
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize(("bias", "shape"), [*product([True, False], [(5,), (7, 5), (2, 3, 5), (0, 5)])])
@pytest.mark.parametrize("frozen", ["nothing", "input", "weight"])
def test_values_and_gradients_are_those_of_products_in_float64(bias: bool, shape: tuple, frozen: str) -> None:
    torch.manual_seed(0)
    layer = Linear(5, 4, bias=bias)
    x, direction = torch.randn(shape, requires_grad=frozen != "input"), torch.randn(*shape[:-1], 4)
    layer.weight.requires_grad_(frozen != "weight")
    exact, exact_x = torch.nn.Linear(5, 4, bias=bias).double(), x.detach().double().requires_grad_()
    exact.load_state_dict(layer.state_dict())
    y, exact_y = layer(x), exact(exact_x)
    y.backward(direction)
    exact_y.backward(direction.double())
    for which, ours, theirs in (
        ("input", x, exact_x),
        ("weight", layer.weight, exact.weight),
        ("bias", layer.bias, exact.bias),
    ):
        if which == frozen:
            assert ours.grad is None
        elif ours is not None:
            torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y, exact_y.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("on_zen_5")
def test_all_three_products_of_a_layer_are_onednn_s() -> None:
    layer, x = Linear(5, 4), torch.randn(7, 5, requires_grad=True)
    with Products() as products:
        layer(x).sum().backward()
    assert products.settings == ["bf16"] * 3


@pytest.mark.usefixtures("on_zen_5")
def test_where_numbers_are_rounded_already_products_are_pytorch_s() -> None:
    layer, x = Linear(5, 4), torch.randn(7, 5)
    with Products() as products:
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert products.settings == ["none"] * 2


def test_elsewhere_products_are_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: False)
    with Products() as products:
        Linear(5, 4)(torch.randn(7, 5)).sum().backward()
    assert products.settings == ["none"] * 2


def test_rounding_is_seen() -> None:
    def rounded(left: Tensor, right: Tensor) -> Tensor:
        return left.bfloat16().float() @ right.bfloat16().float()

    assert keeps_fp32(torch.matmul)
    assert not keeps_fp32(rounded)


@pytest.mark.parametrize(
    ("vendor", "family", "gains"),
    [("AuthenticAMD", 26, True), ("AuthenticAMD", 25, False), ("GenuineIntel", 26, False)],
)
def test_cpus_that_gain_are_known_by_name(vendor: str, family: int, gains: bool) -> None:
    """As /proc/cpuinfo writes it (Linux, arch/x86/kernel/cpu/proc.c)."""
    described = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 2\n"
    assert is_zen_5(described) == gains


def test_a_trace_of_shapes_does_not_decide_for_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: pytest.fail("fake numbers were asked"))
    with FakeTensorMode():
        assert Linear(5, 4)(torch.empty(7, 5)).shape == (7, 4)


@pytest.mark.usefixtures("on_zen_5")
def test_the_setting_comes_back_after_an_error() -> None:
    layer = Linear(5, 4)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        layer(torch.randn(7, 6))
