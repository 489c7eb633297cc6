from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from video_dit.evaluation.motion import motion_magnitude, temporal_flicker
from video_dit.evaluation.similarity import psnr, ssim


class Largest(TorchDispatchMode):
    """The most bytes that a tensor has that is computed."""

    num_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if isinstance(output, Tensor):
            self.num_bytes = max(self.num_bytes, output.nbytes)
        return output


@pytest.mark.parametrize(
    "measure",
    [motion_magnitude, temporal_flicker, lambda clips: psnr(clips, clips), lambda clips: ssim(clips, clips)],
    ids=["motion", "flicker", "PSNR", "SSIM"],
)
def test_measures_of_each_clip_need_no_more_memory_for_more_clips(measure: Callable[[Tensor], Tensor]) -> None:
    clips = torch.randint(256, (20, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with Largest() as one:
        measure(clips[:1])
    with Largest() as twenty:
        measure(clips)
    assert twenty.num_bytes == one.num_bytes
