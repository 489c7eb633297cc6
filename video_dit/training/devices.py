"""Devices by name: how much memory they have, and how fast they can be."""

import os
import re
import time
from typing import NamedTuple

import torch

from video_dit.errors import UserError
from video_dit.ops.linear import Linear
from video_dit.precision import DTYPES

GIB = 2**30

PEAKS = {
    "A100": (312e12, 19.5e12),
    "H100": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "L4": (121e12, 30.3e12),
    "L40S": (362e12, 91.6e12),
    "RTX4090": (165e12, 82.6e12),
}
"""FLOP/s, dense, in bf16 and in fp32 without TF32: NVIDIA's data sheets of the A100 (SXM), H100 (SXM), H200, L4 and
L40S, and the white paper of the Ada architecture (RTX 4090, sums in fp32)."""

SLOWER = {"PCIE", "NVL", "LAPTOP"}
"""Words in the names of cards that do less than those of the table; not of the A100, whose data sheet has one peak."""

RESERVED = 0.08
"""Share of a GPU's memory that is left to the CUDA context, to NCCL and to gaps between tensors."""


class Devices(NamedTuple):
    """Devices of one kind, one for each rank.

    memory: bytes of each.
    host_memory: bytes of the machine for each; None where it is not known.
    """

    count: int
    name: str
    memory: int
    host_memory: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Devices":
        """From COUNTxNAME-SIZEGB, such as 64xH100-80GB; the GPUs' sizes are GiB.

        Raises:
            UserError: it is written in another way.
        """
        match = re.fullmatch(r"(\d+)x([\w.-]+)-(\d+(?:\.\d+)?)GB", text)
        if match is None or int(match[1]) == 0 or float(match[3]) == 0:
            raise UserError(f"--gpus {text}: write COUNTxNAME-SIZEGB, such as 8xA100-40GB or 64xH100-80GB")
        return cls(int(match[1]), match[2], int(float(match[3]) * GIB))

    @classmethod
    def here(cls) -> "Devices":
        """This machine's GPUs; without any, its CPU, whose memory its ranks (LOCAL_SIZE, or one) share."""
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        count = torch.cuda.device_count()
        if count:
            first = torch.cuda.get_device_properties(0)
            return cls(count, first.name, first.total_memory, host // count)
        ranks = int(os.environ.get("LOCAL_SIZE", "1"))
        return cls(ranks, "CPU", host // ranks, host // ranks)

    @property
    def is_gpu(self) -> bool:
        return self.name != "CPU"

    @property
    def usable(self) -> int:
        """Bytes of one that tensors can have."""
        return int(self.memory * (1 - RESERVED))

    def fits(self, num_bytes: int, host_bytes: int = 0) -> bool:
        """Whether a rank has so many bytes on its device, and so many in the machine's memory, if this is known."""
        return num_bytes <= self.usable and (self.host_memory is None or host_bytes <= self.host_memory)

    def peak_flops(self, precision: str) -> float | None:
        """FLOP/s of one, or None where the table has no such device."""
        words = re.sub(r"[^A-Z0-9]+", " ", self.name.upper().replace("RTX ", "RTX")).split()
        name = next((word for word in words if word in PEAKS), None)
        if name is None or (name != "A100" and SLOWER.intersection(words)):
            return None
        return PEAKS[name][1 if precision == "fp32" else 0]

    def __str__(self) -> str:
        return f"{self.count} x {self.name} of {self.memory / GIB:.3g} GiB"


class Peak(NamedTuple):
    """FLOP/s that one device can do, and how that is known."""

    flops: float
    source: str


@torch.no_grad()
def peak_flops(device: torch.device, precision: str) -> Peak:
    """From the table of devices; of one that is not there, by timing a linear layer."""
    known = Devices.here().peak_flops(precision)
    if known is not None:
        return Peak(known, "from its data sheet")
    size = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(size, size, device=device, dtype=DTYPES[precision])
    layer = Linear(size, size, bias=False, device=device, dtype=DTYPES[precision])
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        float(layer(matrix)[0, 0])  # read back, for a GPU to be done
        seconds.append(time.perf_counter() - start)
    return Peak(2 * size**3 / min(seconds), "the fastest of six linear layers here")
