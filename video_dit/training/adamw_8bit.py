"""AdamW that keeps its averages in 8 bits (Dettmers et al. 2022, arXiv 2110.02861)."""

from collections.abc import Callable, Iterable
from functools import cache
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

BLOCK = 256
"""Values that share a scale, the largest of their sizes."""

BYTES_PER_VALUE = 1 + 4 / BLOCK

CHUNK = BLOCK * 2**12
"""Values that are in fp32 at a time."""

CHUNK_BYTES_PER_VALUE = 4 * 5
"""Of those: both averages, one of them scaled, its codes and their lower bounds."""

_AVERAGES = {"exp_avg": True, "exp_avg_sq": False}
"""Each with whether it has signs."""


class AdamW8bit(Optimizer):
    """AdamW (Loshchilov and Hutter 2019) with blockwise dynamic quantization of both averages.

    Each step is taken with the averages as they are before they are rounded. Two things differ from the paper's codes:
    -1 is one of them, so that what was rounded once comes back from `expand` and `compress` bit for bit; and a mean
    square is rounded to 0 only if it is 0, as the step would be divided by it.

    Args:
        parameters: or groups of them.
        lr, betas, eps, weight_decay: as AdamW's.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Of all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter.view(-1), parameter.grad.view(-1), self._state_of(parameter), group)

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            number, device = parameter.numel(), parameter.device
            for name, signed in _AVERAGES.items():
                zero = int(code_values(signed, device).eq(0).nonzero())
                state[_codes(name)] = torch.full((number,), zero, dtype=torch.uint8, device=device)
                state[_scales(name)] = torch.zeros(ceil(number / BLOCK), device=device)
        return state

    def _step(self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] += 1
        beta1, beta2 = group["betas"]
        size = group["lr"] / (1 - beta1 ** state["step"])
        correction2 = 1 - beta2 ** state["step"]
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        for start in range(0, len(weights), CHUNK):
            part, blocks = slice(start, start + CHUNK), slice(start // BLOCK, (start + CHUNK) // BLOCK)
            of_part = {name: (state[_codes(name)][part], state[_scales(name)][blocks]) for name in _AVERAGES}
            mean, square = (dequantize(*of_part[name], signed) for name, signed in _AVERAGES.items())
            mean.lerp_(gradient[part], 1 - beta1)
            square.lerp_(gradient[part].square(), 1 - beta2)
            for values, (name, signed) in zip((mean, square), _AVERAGES.items(), strict=True):
                for old, new in zip(of_part[name], quantize(values, signed), strict=True):
                    old.copy_(new)
            weights[part].addcdiv_(mean, square.div_(correction2).sqrt_().add_(group["eps"]), value=-size)

    def expand(self) -> None:
        """Replaces the averages by "exp_avg" and "exp_avg_sq" in fp32, as AdamW has them, in the CPU's memory."""
        for parameter, state in self.state.items():
            for name, signed in _AVERAGES.items():
                flat = dequantize(state.pop(_codes(name)), state.pop(_scales(name)), signed)
                state[name] = flat.view(parameter.shape).cpu()

    def compress(self) -> None:
        """The inverse of `expand`."""
        for parameter, state in self.state.items():
            for name, signed in _AVERAGES.items():
                values = state.pop(name).view(-1).to(parameter.device)
                state[_codes(name)], state[_scales(name)] = quantize(values, signed)


def _codes(name: str) -> str:
    return f"{name}_codes"


def _scales(name: str) -> str:
    return f"{name}_scales"


@cache
def code_values(signed: bool, device: torch.device) -> Tensor:
    """[256] float32, ascending in [-1, 1] or [0, 1]: the values of the codes (section 1.3 and figure 2 there).

    Powers of ten, and between two of them the more numbers, at equal distances, the larger they are.
    """
    positive = [1.0]
    for exponent in range(-6, 1):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + 6 + (not signed)) + 1, dtype=torch.float64)
        positive += (10.0**exponent * (edges[:-1] + edges[1:]) / 2).tolist()
    positive.sort()
    negative = [-value for value in positive if value != positive[-2]] if signed else []
    return torch.tensor(sorted([*negative, 0.0, *positive]), dtype=torch.float32, device=device)


def quantize(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes of the nearest values, uint8 [N], and the scale of each block, float32 [ceil(N / BLOCK)].

    Args:
        values: [N] float32; not below 0 unless `signed`.
        signed: which codes.
    """
    table = code_values(signed, values.device)
    blocks = F.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    in_range = blocks / scales.where(scales > 0, 1)[:, None]
    codes = torch.bucketize(in_range, (table[1:] + table[:-1]) / 2, out_int32=True)
    if not signed:
        codes.clamp_(min=(blocks > 0).int())
    return codes.to(torch.uint8).view(-1)[: len(values)], scales


def dequantize(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """The inverse, float32 [N], but for rounding."""
    values = code_values(signed, codes.device)[codes.int()]
    blocks = F.pad(values, (0, -len(codes) % BLOCK)).view(-1, BLOCK) * scales[:, None]
    return blocks.view(-1)[: len(codes)]
