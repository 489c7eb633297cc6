from dataclasses import replace
from pathlib import Path

import pytest
import torch
from preprocessed import write_shard
from torch import Tensor

from data.dataset import ClipDataset, collate
from data.dataset_info import DatasetInfo
from data.latents import draw_latents, encode
from data.order import Position
from data.shards import ShardReader
from video_dit.contracts import Posterior
from video_dit.encoders.autoencoders import PixelAutoencoder
from video_dit.frames import to_uint8


def test_every_level_of_a_pixel_survives() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1).repeat(1, 1, 1, 1, 3)
    mean, std = encode(frames, PixelAutoencoder())
    assert std is None
    assert torch.equal(to_uint8(mean), frames)


def test_latents_have_the_mean_and_the_deviation_that_they_are_drawn_with() -> None:
    """Within four standard errors; the noise of another seed is uncorrelated."""
    mean, std = torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), 0.5)
    drawn, other = (draw_latents(mean.bfloat16(), std.bfloat16(), seed).double() for seed in (1, 2))
    error = 1 / 200
    assert (drawn.mean() - 3).abs() < 4 * 0.5 * error
    assert (drawn.std() / 0.5 - 1).abs() < 4 * error / 2**0.5
    assert (((drawn - 3) * (other - 3)).mean() / 0.25).abs() < 4 * error
    assert torch.equal(drawn, draw_latents(mean, std, 1).double())
    assert torch.equal(draw_latents(mean, None, 1), mean)


@pytest.fixture
def uncertain(tiny_shards: Path, tmp_path: Path) -> Path:
    """The tiny shards as if their latents had a deviation that grows from sample to sample."""
    info = DatasetInfo.read(tiny_shards)
    stored = [sample for name in info.shards for sample in ShardReader(tiny_shards / name)]
    samples = [one._replace(latents_std=torch.full_like(one.latents, i / 16)) for i, one in enumerate(stored)]
    shard = write_shard(tmp_path / "all.arrow", samples[::-1], next(iter(info.buckets)))
    (tmp_path / "dataset.json").write_bytes(replace(info, shards={"all.arrow": shard}).to_bytes())
    return tmp_path


def test_the_latents_of_a_sample_depend_on_seed_epoch_and_id_alone(uncertain: Path) -> None:
    stored = {sample.id: sample for sample in ShardReader(uncertain / "all.arrow")}

    def noise(seed: int, epoch: int, order: int) -> dict[str, Tensor]:
        """By id: how many deviations the latents are away from their mean."""
        dataset = ClipDataset(uncertain, seed)
        found = {}
        for place in list(range(epoch * len(dataset), (epoch + 1) * len(dataset)))[::order]:
            sample = dataset[Position(0, place)][0]
            mean, std = stored[sample.id].latents.float(), stored[sample.id].latents_std
            assert std is not None
            if std.max() > 0:
                found[sample.id] = (sample.latents - mean) / std.float()
            else:
                assert torch.equal(sample.latents, mean)
        return found

    first, again, later, another = noise(0, 0, 1), noise(0, 0, -1), noise(0, 1, 1), noise(1, 0, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    together = torch.stack(list(first.values()))
    for other in (later, another):
        assert ((torch.stack([other[name] for name in first]) * together).mean()).abs() < 4 / together.numel() ** 0.5
    assert abs(together.std() - 1) < 0.01
    samples = [ClipDataset(uncertain, seed=0)[Position(0, place)] for place in range(4)]
    assert torch.equal(collate(samples).latents, torch.stack([item.sample.latents for item in samples]))


def test_what_an_autoencoder_says_is_joined_and_taken_apart() -> None:
    mean, std = torch.randn(2, 1, 3, 2, 2, 2)
    for posterior in (Posterior(mean, std), Posterior(mean, None)):
        ours = Posterior.of_joined(posterior.joined(), channels=3)
        assert torch.equal(ours.mean, mean)
        assert (ours.std is None) if posterior.std is None else torch.equal(ours.std, std)
