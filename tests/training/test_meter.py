"""Speeds, by a clock that the test turns."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from random_inputs import random_clip_info, random_text

from video_dit.config import Config
from video_dit.contracts import Batch, EncodedShape, TextSegment
from video_dit.models import build_model
from video_dit.shapes import Grid
from video_dit.training.devices import PEAKS, Devices, peak_flops
from video_dit.training.draws import Draws, draw
from video_dit.training.flops import step_flops
from video_dit.training.meter import Meter, Speed, peak_memory

SEGMENTS = (TextSegment((0, 8), (0, 16), (0, 16), "hash"),)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_went_through_in_which_time(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks; waiting counts, pauses do not, and words that are padding in all rows cost no operations."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    model = build_model(tiny_config, EncodedShape(3, Grid(4, 16, 16), 8, 16, 16, SEGMENTS))
    text = random_text(2, 8, 16)
    text.mask[:] = torch.arange(8) < 5
    numbers = torch.arange(2)
    batch = Batch(torch.zeros(2, 3, 4, 16, 16), text, random_clip_info(2), numbers, numbers, ("a", "b"))

    draws = draw(batch, tiny_config)

    def source() -> Iterator[tuple[Batch, Draws]]:
        while True:
            clock.now += 0.5
            yield batch, draws

    meter = Meter(model, num_ranks=3, per_frame_noise=False)
    batches = meter.batches(source())
    for _ in range(2):
        assert next(batches)[0] is batch
        clock.now += 2.0
    with meter.paused():
        clock.now += 50.0
    flops = step_flops(model, Grid(2, 2, 2), 5).model
    assert meter.lap() == Speed(5.0, 1.0, paused=50.0, clips=12, tokens=12 * (8 + 8), flops=12 * flops)
    clock.now += 1.0
    assert meter.lap() == Speed(1.0, 0.0, 0.0, 0, 0, 0)


def test_the_peak_is_the_table_s_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    measured = peak_flops(device, "fp32")
    assert "linear layers" in measured.source
    assert 1e8 < measured.flops < 1e14
    monkeypatch.setattr(Devices, "here", lambda: Devices.parse("1xH100-80GB"))
    assert peak_flops(device, "bf16") == (PEAKS["H100"][0], "from its data sheet")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
def test_the_peak_of_memory_is_the_kernel_s() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert peak_memory(torch.device("cpu")) == pytest.approx(1024 * kibibytes, rel=0.02)
