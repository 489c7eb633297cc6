"""I3D, the inflated Inception network of videos (Carreira and Zisserman 2017, arXiv 1705.07750), which FVD reads.

The weights are those that DeepMind published for the 400 classes of Kinetics (i3d-kinetics-400/1 of TensorFlow Hub), in
the file that scripts/fetch_metric_weights.py makes. The modules have the names of that file.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_dit.evaluation.clips import check_clips
from video_dit.evaluation.network_weights import load_network

NUM_CLASSES = 400
MIN_FRAMES = 9
"""The last pooling is over 2 steps of 8 frames each, of which the second may be begun."""
_SIZE = 224

_MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels: of the input, then those that `_Mixed` takes."""


class I3D(nn.Module):
    """The network for RGB clips, without what training it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = _Unit(3, 64, 7, stride=2)
        self.c2b = _Unit(64, 64, 1)
        self.c2c = _Unit(64, 192, 3)
        self.m = nn.ModuleDict({name: _Mixed(*channels) for name, channels in _MIXED.items()})
        self.logits = nn.ModuleDict({"conv": nn.Conv3d(1024, NUM_CLASSES, 1)})

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: [B, 3, F, 224, 224] float in [-1, 1], F of at least `MIN_FRAMES`.

        Returns:
            [B, 400], the logits' mean over time.
        """
        x = _max_pool(self.c1(x), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.c2c(self.c2b(x)), (1, 3, 3), (1, 2, 2))
        for name, mixed in self.m.items():
            if name == "Mixed_4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = mixed(x)
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits["conv"](x).mean((2, 3, 4))


def load_i3d(file: Path, named_by: str = "--i3d") -> I3D:
    """I3D with the weights of a safetensors file, which scripts/fetch_metric_weights.py makes; see `load_network`.

    Raises:
        UserError: there is no such file, or it has other weights.
    """
    return load_network(I3D(), file, named_by, "python scripts/fetch_metric_weights.py FOLDER")


@torch.no_grad()
def i3d_features(clips: Tensor, network: I3D, batch_size: int = 8) -> Tensor:
    """The 400 logits that FVD compares (Unterthiner et al. 2018, arXiv 1812.01717: "RGB/inception_i3d/Mean:0" of its
    published code), from frames of 224 x 224, bilinear, in [-1, 1].

    All frames are read, whatever their rate: compare clips of one length and rate.

    Args:
        clips: uint8 [N, F, H, W, 3], F of at least `MIN_FRAMES`.
        network: on the device where to compute.
        batch_size: clips computed together.

    Returns:
        [N, 400] float32, on the CPU.

    Raises:
        UserError: they are no such clips.
    """
    check_clips(clips, min_frames=MIN_FRAMES)
    device = next(network.parameters()).device
    batches = clips.split(batch_size)
    return torch.cat([network(_preprocess(batch.to(device))).cpu() for batch in batches])


def _preprocess(clips: Tensor) -> Tensor:
    """uint8 [B, F, H, W, 3] to [B, 3, F, 224, 224] in [-1, 1]."""
    frames = rearrange(clips, "b f h w c -> b c f h w").float() * (2 / 255) - 1
    rows, columns = (_resize_matrix(size, _SIZE).to(frames) for size in frames.shape[-2:])
    return rows @ frames @ columns.mT


def _resize_matrix(size: int, new_size: int) -> Tensor:
    """[new_size, size]: linear interpolation at the places k size / new_size.

    So does TensorFlow 1's resize_bilinear, which the published code calls: the first pixels lie on each other, not the
    centres of the frames, and nothing is smoothed before it is made smaller.
    """
    places = torch.arange(new_size, dtype=torch.float64) * (size / new_size)
    below = places.floor().long()
    share = (places - below).unsqueeze(1)
    identity = torch.eye(size, dtype=torch.float64)
    return (1 - share) * identity[below] + share * identity[(below + 1).clamp(max=size - 1)]


class _Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out_channels, kernel, stride, bias=False)
        self.bn = _BatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(_pad_same(x, self.conv.kernel_size, self.conv.stride))))


class _BatchNorm(nn.Module):
    """With running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)


class _Mixed(nn.Module):
    """Four branches, side by side along the channels: 1, 1 then 3, 1 then 3, pool then 1."""

    def __init__(self, channels: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3: int) -> None:
        super().__init__()
        self.b0 = _Unit(channels, b0, 1)
        self.b1a, self.b1b = _Unit(channels, b1a, 1), _Unit(b1a, b1b, 3)
        self.b2a, self.b2b = _Unit(channels, b2a, 1), _Unit(b2a, b2b, 3)
        self.b3 = _Unit(channels, b3, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3(pooled)], 1)


def _max_pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return F.max_pool3d(_pad_same(x, kernel, stride), kernel, stride)  # zeros are never the maximum alone: x >= 0


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME: ceil(n / stride) outputs; where the number of zeros is odd, one more at the end."""
    padding: list[int] = []
    for n, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x
