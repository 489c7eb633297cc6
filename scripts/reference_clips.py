"""Clips out of shards, to compare generated ones with."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.dataset import ClipDataset
from data.order import Position
from video_dit.contracts import Autoencoder
from video_dit.errors import UserError
from video_dit.sampling.frames import to_uint8
from video_dit.shapes import Grid


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
        raise UserError(f"{folder} has clips of {there}, and none of {'x'.join(map(str, pixels))}, as the run makes")
    bucket = shapes.index(pixels)
    for index in range(dataset.counts[bucket]):
        item = dataset[Position(bucket, index)]
        frames = item.frames
        if item.sample.latents is not None:
            frames = to_uint8(autoencoder.decode(item.sample.latents[None].to(device)))[0].cpu()
        if frames is None or item.problems:
            raise UserError(f"{item.sample.id} in {folder} cannot be decoded: {item.problems}")
        yield Reference(item.sample.id, item.sample.caption, frames)


def nearest(clips: Tensor, references: Iterable[Reference]) -> list[Reference]:
    """Of each clip the reference whose pixels differ least from its own, by their mean square.

    Args:
        clips: uint8 [N, F, H, W, 3].
        references: of the same size, one after another, as there may be many.
    """
    wanted = clips.flatten(1).float()
    best = torch.full((len(clips),), torch.inf)
    found: list[Reference | None] = [None] * len(clips)
    for reference in references:
        distances = (wanted - reference.frames.flatten().float()).square().mean(1)
        for index in (distances < best).nonzero().flatten().tolist():
            found[index] = reference
        best = torch.minimum(best, distances)
    return [reference for reference in found if reference is not None]
