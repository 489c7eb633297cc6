"""A linear probe: what a simple classifier, fitted to real clips, sees in the colours of generated ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.clips import check_clips

_LEVELS = 8
"""Of each of red, green and blue."""


def colour_histogram(clips: Tensor) -> Tensor:
    """Square roots of the shares of a clip's pixels, over all frames, in 8 x 8 x 8 equal boxes of red, green and blue.

    The Euclidean distance of two such is, up to a factor, Hellinger's of the histograms, to which small areas matter.

    Args:
        clips: uint8 [N, F, H, W, 3].

    Returns:
        [N, 512] float64, of unit length.

    Raises:
        UserError: they are no such clips.
    """
    check_clips(clips)
    places = torch.tensor([_LEVELS**2, _LEVELS, 1])
    counts = torch.stack(  # clip by clip, as whole numbers take eight times the memory of pixels
        [((clip // (256 // _LEVELS)).long() @ places).flatten().bincount(minlength=_LEVELS**3) for clip in clips]
    )
    return (counts.double() / clips[0, ..., 0].numel()).sqrt()


class LinearProbe:
    """Least squares with the classes as one-hot targets, a ridge penalty and an intercept, which is not penalized
    (Hastie, Tibshirani and Friedman 2009, sections 3.4.1 and 4.2).

    Args:
        features: [N, D] float64.
        labels: [N] int64, from 0 on; each class has one at least.
        ridge: the penalty.

    Raises:
        UserError: a class has none.
    """

    def __init__(self, features: Tensor, labels: Tensor, ridge: float = 1.0) -> None:
        counts = labels.bincount()
        if len(counts) == 0 or not counts.all():
            raise UserError(f"of the classes {counts.tolist()} clips are given to fit a probe to: each needs one")
        targets = F.one_hot(labels).double()
        self._mean, self._shares = features.mean(0), targets.mean(0)
        centred = features - self._mean
        penalty = ridge * torch.eye(features.shape[1], dtype=torch.float64)
        self._weights = torch.linalg.solve(centred.mT @ centred + penalty, centred.mT @ (targets - self._shares))

    def predict(self, features: Tensor) -> Tensor:
        """[M, D] to the class of each, [M]."""
        return ((features - self._mean) @ self._weights + self._shares).argmax(1)
