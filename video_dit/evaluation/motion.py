"""How much clips move, and how much they flicker, in units of the range of pixels."""

from collections.abc import Callable

import torch
from torch import Tensor

from video_dit.evaluation.clips import check_clips


def motion_magnitude(clips: Tensor) -> Tensor:
    """mean |x_{f+1} - x_f|: how much a pixel changes from one frame to the next.

    It measures change, whatever makes it: noise counts, and a moving area without texture counts at its edge alone.
    Compare clips of one frame rate.

    Args:
        clips: uint8 [N, F, H, W, 3], F of at least 2.

    Returns:
        [N] float64 in [0, 1].

    Raises:
        UserError: they are no such clips.
    """
    check_clips(clips, min_frames=2)
    return _of_each(clips, lambda levels: levels[1:] - levels[:-1])


def temporal_flicker(clips: Tensor) -> Tensor:
    """mean |x_f - (x_{f-1} + x_{f+1}) / 2| over the frames that have two neighbours.

    A pixel that brightens or darkens steadily has none; one that is black and white in turn has 1. Motion counts too,
    where an edge passes, so compare with real clips that move as much.

    Args:
        clips: uint8 [N, F, H, W, 3], F of at least 3.

    Returns:
        [N] float64 in [0, 1].

    Raises:
        UserError: they are no such clips.
    """
    check_clips(clips, min_frames=3)
    return _of_each(clips, lambda levels: levels[1:-1] - (levels[:-2] + levels[2:]) / 2)


def _of_each(clips: Tensor, difference: Callable[[Tensor], Tensor]) -> Tensor:
    """[N], the mean absolute difference that there is within the levels of each clip, float64 [F, H, W, 3] in [0, 1].

    Clip by clip, as its levels take eight times the memory of its pixels.
    """
    return torch.stack([difference(clip.double() / 255).abs().mean() for clip in clips])
