"""How close clips are to references, pixel by pixel: PSNR and SSIM."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from video_dit.evaluation.clips import check_pairs

WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def psnr(clips: Tensor, references: Tensor) -> Tensor:
    """10 log10(255^2 / mean squared error) of each frame, and their mean over a clip.

    Args:
        clips: uint8 [N, F, H, W, 3].
        references: likewise, one for each clip.

    Returns:
        [N] float64 in dB; infinite for a clip with a frame that equals its reference.

    Raises:
        UserError: they are no clips of one shape.
    """
    check_pairs(clips, references)
    errors = torch.stack(  # clip by clip, as float64 takes eight times the memory of pixels
        [(x.double() - y.double()).square().flatten(1).mean(1) for x, y in zip(clips, references, strict=True)]
    )
    return (10 * torch.log10(255**2 / errors)).mean(1)


def ssim(clips: Tensor, references: Tensor) -> Tensor:
    """The mean structural similarity (Wang et al. 2004, equations 13 to 17).

    Gaussian windows of 11 x 11 pixels, sigma 1.5, wherever one lies within the frame; K1 = 0.01, K2 = 0.03; each colour
    by itself, then the mean.

    Args:
        clips: uint8 [N, F, H, W, 3], H and W of at least 11.
        references: likewise, one for each clip.

    Returns:
        [N] float64 in [-1, 1]; 1 for equal clips.

    Raises:
        UserError: they are no clips of one shape, or smaller than a window.
    """
    check_pairs(clips, references, min_size=WINDOW)
    return torch.stack([_ssim_of_frames(x, y).mean() for x, y in zip(clips, references, strict=True)])


def _ssim_of_frames(x: Tensor, y: Tensor) -> Tensor:
    """Of every window of the frames of a clip, [F 3, 1, H - 10, W - 10]."""
    x, y = (rearrange(frames.double(), "f h w c -> (f c) 1 h w") for frames in (x, y))
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def _windowed(x: Tensor) -> Tensor:
    """The Gaussian mean around each pixel, along the rows and along the columns."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    gaussian = torch.softmax(-offsets.square() / (2 * _SIGMA**2), 0)
    return F.conv2d(F.conv2d(x, gaussian.view(1, 1, 1, -1)), gaussian.view(1, 1, -1, 1))
