"""How fast a device can be, against which MFU is measured."""

import time

import torch

from video_dit.config import TrainingConfig
from video_dit.training.devices import Devices

_SIZES = {"cpu": 768, "cuda": 8192}
_REPEATS = 5


def peak_flops(device: torch.device, training: TrainingConfig) -> float:
    """FLOP/s of one rank's device: by its data sheet, or where that is not known, of a product of large matrices."""
    return Devices.here().peak_flops(training.precision) or measured_peak(device, training)


def measured_peak(device: torch.device, training: TrainingConfig) -> float:
    """The best of a few products of square matrices, on as many threads as training has; after one to warm up."""
    size = _SIZES[device.type]
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + _REPEATS):
        _wait_for(device)
        start = time.perf_counter()
        a @ b
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
