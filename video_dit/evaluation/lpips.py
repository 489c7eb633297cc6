"""The learned perceptual distance LPIPS (Zhang et al. 2018, arXiv 1801.03924), AlexNet, version 0.1."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_dit.evaluation.clips import check_pairs
from video_dit.evaluation.network_weights import load_network

MIN_SIZE = 31
"""AlexNet leaves no pixel of smaller frames."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """AlexNet's five convolutions, and the weights of the channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 64, 11, stride=4, padding=2)
        self.conv1 = nn.Conv2d(64, 192, 5, padding=2)
        self.conv2 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv3 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv4 = nn.Conv2d(256, 256, 3, padding=1)
        for index, width in enumerate((64, 192, 384, 256, 256)):
            self.add_module(f"lin{index}", nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """sum_l mean_hw w_l . (y_l(a) - y_l(b))^2, y_l of unit length along the channels (equation 1).

        Args:
            a: [B, 3, H, W] float in [-1, 1], H and W of at least `MIN_SIZE`.
            b: likewise.

        Returns:
            [B], at least 0.
        """
        layers = zip(self._activations(a), self._activations(b), strict=True)
        distances = [
            getattr(self, f"lin{index}")((_unit(x) - _unit(y)).square()).mean((1, 2, 3))
            for index, (x, y) in enumerate(layers)
        ]
        return torch.stack(distances).sum(0)

    def _activations(self, x: Tensor) -> list[Tensor]:
        shift, scale = (x.new_tensor(values).view(3, 1, 1) for values in (_SHIFT, _SCALE))
        first = F.relu(self.conv0((x - shift) / scale))
        second = F.relu(self.conv1(F.max_pool2d(first, 3, 2)))
        third = F.relu(self.conv2(F.max_pool2d(second, 3, 2)))
        fourth = F.relu(self.conv3(third))
        return [first, second, third, fourth, F.relu(self.conv4(fourth))]


def load_lpips(file: Path, named_by: str = "--lpips") -> LPIPS:
    """LPIPS with the weights of a safetensors file, which scripts/fetch_metric_weights.py makes; see `load_network`.

    Raises:
        UserError: there is no such file, or it has other weights.
    """
    return load_network(LPIPS(), file, named_by, "python scripts/fetch_metric_weights.py FOLDER")


@torch.no_grad()
def lpips(clips: Tensor, references: Tensor, network: LPIPS) -> Tensor:
    """LPIPS of each frame, and the mean over a clip, one clip at a time.

    Args:
        clips: uint8 [N, F, H, W, 3], H and W of at least `MIN_SIZE`.
        references: likewise, one for each clip.
        network: on the device where to compute.

    Returns:
        [N] float32, on the CPU; 0 for equal clips.

    Raises:
        UserError: they are no clips of one shape, or too small.
    """
    check_pairs(clips, references, min_size=MIN_SIZE)
    device = network.conv0.weight.device

    def frames(clip: Tensor) -> Tensor:
        return rearrange(clip.to(device), "f h w c -> f c h w").float() * (2 / 255) - 1

    pairs = zip(clips, references, strict=True)
    return torch.stack([network(frames(clip), frames(reference)).mean().cpu() for clip, reference in pairs])


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
