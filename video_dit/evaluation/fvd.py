"""The Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717)."""

from torch import Tensor

from video_dit.evaluation.distances import frechet_distance
from video_dit.evaluation.i3d import I3D, i3d_features


def frechet_video_distance(clips: Tensor, references: Tensor, network: I3D, batch_size: int = 8) -> float:
    """The Fréchet distance between the logits of I3D on two sets of clips.

    With fewer clips than the 400 logits, and well above, it says mostly how many they are: see `frechet_distance`. For
    the interval, or the kernel distance of the same features, take `i3d_features` of both sets once.

    Args:
        clips: uint8 [N, F, H, W, 3], F of at least 9, N of at least 2.
        references: uint8 [M, F, H, W, 3], of any size.
        network: see `load_i3d`.
        batch_size: clips computed together.

    Raises:
        UserError: they are no such clips.
    """
    a, b = (i3d_features(side, network, batch_size) for side in (clips, references))
    return frechet_distance(a, b)
