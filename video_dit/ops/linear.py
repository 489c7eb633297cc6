"""The linear layer that tokens pass through, with oneDNN's products on CPUs that gain by them.

PyTorch leaves products of fp32 matrices to MKL, which does without AVX-512 on AMD's CPUs. Since Zen 5 these do twice as
much with it, and oneDNN, which is in PyTorch too, uses it there. PyTorch chooses oneDNN where it may round what goes
into a product to bf16, of which oneDNN makes use on CPUs with units for such products (AMX) alone.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CPU_INFO = Path("/proc/cpuinfo")
FP32_ERROR = 1e-5
"""Of a product, relative to the largest number in it: fp32 stays a hundred times below, bf16 a hundred times above."""


class Linear(nn.Linear):
    """`nn.Linear`, whose numbers in fp32 on a CPU are the same to rounding."""

    def forward(self, input: Tensor) -> Tensor:  # the name that nn.Linear gives it
        if not self._takes_onednn(input):
            return super().forward(input)
        rows = input.reshape(-1, input.shape[-1])
        output: Tensor = _Product.apply(rows, self.weight, self.bias)  # type: ignore[no-untyped-call]
        with torch.no_grad(), onednn_products():
            if self.bias is None:
                torch.mm(rows, self.weight.T, out=output)
            else:
                torch.addmm(self.bias, rows, self.weight.T, out=output)
        return output.view(*input.shape[:-1], self.out_features)

    def _takes_onednn(self, input: Tensor) -> bool:
        is_fp32 = input.is_cpu and input.dtype == self.weight.dtype == torch.float32
        has_numbers = type(input) is Tensor and not torch.compiler.is_compiling()  # which fake tensors have not
        return is_fp32 and has_numbers and not torch.is_autocast_enabled("cpu") and onednn_is_faster()


@contextmanager
def onednn_products() -> Iterator[None]:
    """Products of fp32 matrices on a CPU are oneDNN's in here."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def onednn_is_faster() -> bool:
    """Whether this CPU gains by oneDNN's products, and these keep the precision of fp32.

    By its kind and not by a trial of both, whose outcome could differ between a run and its resumption.
    """
    if not (CPU_INFO.exists() and is_zen_5(CPU_INFO.read_text()) and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    with onednn_products():
        return keeps_fp32(torch.matmul)


def is_zen_5(cpu_info: str) -> bool:
    """Whether Linux describes an AMD CPU of family 26, the first whose units for AVX-512 are 512 bits wide."""
    return bool(
        re.search(r"^vendor_id\s*: AuthenticAMD$", cpu_info, re.M) and re.search(r"^cpu family\s*: 26$", cpu_info, re.M)
    )


def keeps_fp32(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a product of two fp32 matrices has the error of fp32, not that of bf16."""
    left, right = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0)).unbind()
    exact = left.double() @ right.double()
    return bool((product(left, right) - exact).abs().max() < FP32_ERROR * exact.abs().max())


class _Product(torch.autograd.Function):
    """rows [N, K], weight [M, K], bias [M] or None to [N, M], which the layer computes afterwards.

    A recomputed block stops at the last tensor that it saves (torch.utils.checkpoint), which a Function does after its
    forward: a product in there would be computed once more for nothing.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
        of_rows, of_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(rows if of_weight else None, weight if of_rows else None)
        return rows.new_empty(rows.shape[0], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        with onednn_products():
            grad_rows = None if weight is None else grad @ weight
            grad_weight = None if rows is None else grad.T @ rows
        return grad_rows, grad_weight, grad.sum(0) if ctx.needs_input_grad[2] else None
