"""Weights that wait in CPU memory until they are needed."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn


def offload_blocks(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Keeps the blocks' weights in CPU memory; each block is on the device only while it runs.

    Args:
        model: on the CPU; all of it that is in no block moves to the device for good.
        blocks: parts of the model that are called one after another.
        device: where the model is called; if it is the CPU, nothing ever moves.
    """
    blocks = list(blocks)
    waiting = {parameter for block in blocks for parameter in block.parameters()}
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor not in waiting:
            tensor.data = tensor.data.to(device)
    for block in blocks:
        _Offloaded(block, device)


class _Offloaded:
    """The hooks of one block."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.device = device
        self.parameters = list(block.parameters())
        pinned = device.type == "cuda"  # only from such memory is a copy to the GPU fast
        self.at_home = [p.data.pin_memory() if pinned else p.data for p in self.parameters]
        self._bring_home()
        block.register_forward_pre_hook(self._fetch)
        block.register_forward_hook(self._bring_home)

    def _fetch(self, *_: Any) -> None:
        for parameter, weights in zip(self.parameters, self.at_home, strict=True):
            parameter.data = weights.to(self.device, non_blocking=True)

    def _bring_home(self, *_: Any) -> None:
        for parameter, weights in zip(self.parameters, self.at_home, strict=True):
            parameter.data = weights
