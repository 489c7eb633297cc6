"""Distances between two sets of features: Fréchet's, between Gaussians fitted to them, and the kernel distance.

Features are float [N, ..., D]: the first axis counts what was drawn independently (clips), so that intervals take their
samples along it; axes between, such as the frames of a clip, are more of the same. Everything is computed in float64.
"""

import torch
from torch import Tensor

from video_dit.errors import UserError

_KERNEL_ROWS = 1024
"""Of the kernel's matrix at a time, so that memory grows with N and not with its square."""


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, arXiv 1706.08500, equation 6).

    With X_a the centred features over sqrt(N - 1), S_a = X_a^T X_a, and the trace of the root is the sum of the
    singular values of X_a X_b^T, or of the triangular factors of both. So there is no root of a matrix that is
    singular, as S is where N <= D, and nothing has to be added to its diagonal.

    The estimate is too large by about c / N, with c that depends on the features (Binkowski et al. 2018, arXiv
    1801.01401; Chong and Forsyth 2020, arXiv 1911.07023). Compare distances of the same N alone. With N <= D it is
    defined and says mostly how large N is; the kernel distance has no such bias.

    Args:
        a: [N, ..., D], N of at least 2.
        b: [M, ..., D].

    Returns:
        At least 0, in squared units of the features.

    Raises:
        UserError: there are too few, of different widths, or not finite.
    """
    a, b = (clips.flatten(0, 1) for clips in _checked(a, b))
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = ((x - mean) / (len(x) - 1) ** 0.5 for x, mean in ((a, mean_a), (b, mean_b)))
    traces = root_a.square().sum() + root_b.square().sum()
    triangle_a, triangle_b = (torch.linalg.qr(root, mode="r").R for root in (root_a, root_b))
    cross = torch.linalg.svdvals(triangle_a @ triangle_b.mT).sum()
    return max(0.0, float((mean_a - mean_b).square().sum() + traces - 2 * cross))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3), k(x, y) = (x . y / D + 1)^3.

    This is KID (Binkowski et al. 2018, arXiv 1801.01401, section 4), over all pairs and not the mean over subsets. Of
    a set's own pairs those within a clip are left out, as frames of a clip are like each other.

    Its mean does not depend on N, so that sets of different sizes can be compared; where the distributions are the
    same it is around 0, and often below.

    Args:
        a: [N, ..., D], N of at least 2.
        b: [M, ..., D].

    Raises:
        UserError: there are too few, of different widths, or not finite.
    """
    a, b = _checked(a, b)
    own_a, own_b = map(_mean_over_clips, (a, b))
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    return own_a + own_b - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _mean_over_clips(clips: Tensor) -> float:
    """Of the kernel of features of two clips of [N, F, D], over all such pairs."""
    num_clips, num_features, _ = clips.shape
    features, within_clips = clips.flatten(0, 1), float(_kernel(clips, clips).sum())
    return (_kernel_sum(features, features) - within_clips) / (num_clips * (num_clips - 1) * num_features**2)


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    return sum(float(_kernel(rows, b).sum()) for rows in a.split(_KERNEL_ROWS))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Of each pair of rows."""
    return (a @ b.mT / a.shape[-1] + 1).pow(3)


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 [N, F, D]."""
    a, b = (x.unsqueeze(1).flatten(1, -2).double() for x in (a, b))
    if a.shape[2] != b.shape[2]:
        raise UserError(f"features of width {a.shape[2]} and {b.shape[2]} are compared: take both from one network")
    if min(len(a), len(b)) < 2:
        raise UserError(f"{len(a)} and {len(b)} clips are compared, and each set needs 2 at least: give more clips")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError("features are not all finite: look for NaN in the network's weights, or compute it in fp32")
    return a, b
