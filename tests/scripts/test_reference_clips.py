from pathlib import Path

import pytest
import torch
from reference_clips import Reference, nearest, read_references

from data.dataset import ClipDataset
from data.order import Position
from video_dit.config import Config
from video_dit.encoders import build_autoencoder
from video_dit.errors import UserError
from video_dit.shapes import Grid

CPU = torch.device("cpu")


def test_latents_become_the_clips_that_they_were(tiny_shards: Path, tiny_config: Config) -> None:
    """The embedded autoencoder is lossless but for bf16, and ids count up."""
    autoencoder = build_autoencoder(tiny_config.autoencoder, CPU)
    references = [*read_references(tiny_shards, tiny_config.data.grid, autoencoder, CPU)]
    dataset = ClipDataset(tiny_shards, seed=0)
    assert len(references) == len(dataset)
    samples = [dataset[Position(0, index)].sample for index in range(len(dataset))]
    assert [reference[:2] for reference in references] == [(sample.id, sample.caption) for sample in samples]
    assert len({reference.caption for reference in references[:8]}) > 2
    assert references[0].frames.shape == (*tiny_config.data.grid, 3)
    background = references[0].frames.flatten(0, 2).float().median(0).values
    assert len(background.unique()) == 1  # grey, as the shapes stand on


def test_another_size_is_told(tiny_shards: Path, tiny_config: Config) -> None:
    with pytest.raises(UserError, match=r"has clips of .*, and none of 8x64x64, as the run makes"):
        next(read_references(tiny_shards, Grid(8, 64, 64), build_autoencoder(tiny_config.autoencoder, CPU), CPU))


def test_the_nearest_is_found_one_after_another() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(50, 200, (40, 2, 4, 4, 3), generator=generator, dtype=torch.uint8)
    references = [Reference(str(index), "", clip) for index, clip in enumerate(frames)]
    wanted = [4, 0, 37, 4]
    noise = torch.randint(0, 9, (4, 2, 4, 4, 3), generator=generator, dtype=torch.uint8)
    found = nearest(frames[wanted] + noise, iter(references))
    assert [int(neighbour.reference.id) for neighbour in found] == wanted
    distances = (noise.double() / 255).square().flatten(1).mean(1).sqrt()
    assert [neighbour.distance for neighbour in found] == pytest.approx(distances.tolist())
