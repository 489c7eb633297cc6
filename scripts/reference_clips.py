"""Clips out of shards, to compare generated ones with."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.dataset import ClipDataset
from data.order import Position
from video_dit.contracts import Autoencoder
from video_dit.errors import UserError
from video_dit.frames import to_uint8
from video_dit.shapes import Grid

_TOGETHER = 32
"""Clips whose distances are computed at once."""


class Reference(NamedTuple):
    """frames: uint8 [F, H, W, 3]."""

    id: str
    caption: str
    frames: Tensor


def read_references(folder: Path, pixels: Grid, autoencoder: Autoencoder, device: torch.device) -> Iterator[Reference]:
    """The clips of this shape, shuffled, always in the same order; latents are decoded.

    Raises:
        UserError: there are none, or one cannot be decoded.
    """
    dataset = ClipDataset(folder, seed=0)
    shapes = [bucket.pixels for bucket in dataset.buckets]
    if pixels not in shapes:
        there = ", ".join("x".join(map(str, shape)) for shape in shapes)
        raise UserError(
            f"{folder} has clips of {there}, and none of {'x'.join(map(str, pixels))}, as the run makes: preprocess "
            "them with the config of the run"
        )
    bucket = shapes.index(pixels)
    for index in range(dataset.counts[bucket]):
        item = dataset[Position(bucket, index)]
        frames = item.frames
        if item.sample.latents is not None:
            frames = to_uint8(autoencoder.decode(item.sample.latents[None].to(device)))[0].cpu()
        if frames is None or item.problems:
            raise UserError(f"{item.sample.id} in {folder} cannot be decoded: {item.problems}")
        yield Reference(item.sample.id, item.sample.caption, frames)


class Neighbour(NamedTuple):
    """distance: root of the mean square over the pixels, in units of their range."""

    reference: Reference
    distance: float


def nearest(clips: Tensor, references: Iterable[Reference]) -> list[Neighbour]:
    """Of each clip the reference whose pixels differ least from its own.

    Args:
        clips: uint8 [N, F, H, W, 3].
        references: one or more of the same size, one after another, as there may be many.
    """
    least = torch.full((len(clips),), torch.inf, dtype=torch.float64)
    found: dict[int, Reference] = {}
    remaining = iter(references)
    while batch := [*islice(remaining, _TOGETHER)]:
        of_batch = _levels(torch.stack([reference.frames for reference in batch]))
        distances, places = torch.cat([torch.cdist(_levels(some), of_batch) for some in clips.split(_TOGETHER)]).min(1)
        for index in (distances < least).nonzero().flatten().tolist():
            found[index] = batch[places[index]]
        least = torch.minimum(least, distances)
    scale = clips[0].numel() ** 0.5
    return [Neighbour(found[index], distance / scale) for index, distance in enumerate(least.tolist())]


def _levels(clips: Tensor) -> Tensor:
    """A row of float64 in [0, 1] for each clip."""
    return clips.flatten(1).double().div_(255)
