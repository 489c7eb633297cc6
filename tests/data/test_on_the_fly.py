"""Shards of videos against shards of the latents of the same clips."""

import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from kept_videos import keep_videos
from preprocessed import write_shard
from torch import Tensor

from data.dataset import ClipDataset, collate, load_batches, load_once
from data.dataset_info import DatasetInfo
from data.latents import draw_latents
from data.on_the_fly import FrameBatch, OnTheFly
from data.order import Position, Schedule, micro_batch_positions
from data.shards import Cut, ShardReader
from data.storage import Place
from data.video import read_windows, write_mp4
from video_dit.config import DataConfig
from video_dit.contracts import Batch, Posterior
from video_dit.encoders.autoencoders import PixelAutoencoder
from video_dit.errors import UserError

CPU = torch.device("cpu")


def refuse(told: str) -> None:
    raise AssertionError(told)


def encoded(batch: Batch | FrameBatch, told: list[str] | None = None) -> Batch:
    assert isinstance(batch, FrameBatch)
    return OnTheFly(PixelAutoencoder(), CPU, refuse if told is None else told.append).encode(batch)


def assert_same(ours: Batch, theirs: Batch | FrameBatch) -> None:
    assert isinstance(theirs, Batch)
    assert ours.ids == theirs.ids
    for x, y in zip(ours[:-1], theirs[:-1], strict=True):
        pairs = [(x, y)] if isinstance(x, Tensor) else zip(x, y, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_those_of_latents(tiny_shards: Path, shapes_videos: Path, tmp_path: Path, num_workers: int) -> None:
    latents = ClipDataset(tiny_shards, seed=0)
    videos = ClipDataset(keep_videos(tiny_shards, shapes_videos, tmp_path / "videos"), seed=0)
    assert (videos.buckets, videos.counts) == (latents.buckets, latents.counts)
    positions = [list(islice(micro_batch_positions(Schedule([60], 0), 0, 1, 8, 8, 5), 3)) for _ in range(2)]
    ours = [encoded(batch) for batch in load_batches(videos, iter(positions[0]), num_workers)]
    theirs = list(load_batches(latents, iter(positions[1]), 0))
    assert len(ours) == 3
    for pair in zip(ours, theirs, strict=True):
        assert_same(*pair)
    both = (load_once(dataset, 5, 1, 2, 2) for dataset in (videos, latents))
    for (our, counted), (their, also) in zip(*both, strict=True):
        assert_same(encoded(our), their)
        assert torch.equal(counted, also)


class Uncertain(PixelAutoencoder):
    """Deviations that depend on the pixels."""

    def encode(self, pixels: Tensor) -> Posterior:
        return Posterior(pixels, pixels.abs() / 4)


class Remembering(PixelAutoencoder):
    """As Wan is: what it has seen of a clip is kept in itself."""

    def encode(self, pixels: Tensor) -> Posterior:
        self._seen = pixels
        os.sched_yield()
        return super().encode(self._seen)


def test_threads_encode_one_after_another(tiny_shards: Path, shapes_videos: Path, tmp_path: Path) -> None:
    """One reads ahead while another validates."""
    videos = ClipDataset(keep_videos(tiny_shards, shapes_videos, tmp_path / "videos"), seed=0)
    batches = [collate([videos[Position(0, index)]]) for index in range(2)] * 300
    shared = OnTheFly(Remembering(), CPU, refuse)
    with ThreadPoolExecutor(2) as threads:
        for ours, batch in zip(threads.map(shared.encode, batches), batches, strict=True):
            assert_same(ours, encoded(batch))


def test_latents_are_drawn_with_the_seed_that_shards_would_draw_them_with(
    tiny_shards: Path, shapes_videos: Path, tmp_path: Path
) -> None:
    videos = ClipDataset(keep_videos(tiny_shards, shapes_videos, tmp_path / "videos"), seed=0)
    latents = ClipDataset(tiny_shards, seed=0)
    batch = collate([videos[Position(0, index)] for index in range(4)])
    assert isinstance(batch, FrameBatch)
    ours = OnTheFly(Uncertain(), CPU, refuse).encode(batch).latents
    for index, row in enumerate(ours):
        sample, seed = latents[Position(0, index)][:2]
        assert sample.latents is not None
        mean = sample.latents.bfloat16()
        assert (row != mean.float()).any()
        torch.testing.assert_close(row, draw_latents(mean, mean.abs() / 4, seed), atol=4e-3, rtol=0)


def test_videos_in_tars_and_under_odd_names_are_found(tiny_shards: Path, shapes_videos: Path, tmp_path: Path) -> None:
    """In a shard's file, a name need not be UTF-8."""
    offsets: dict[str, tuple[int, int]] = {}
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted(shapes_videos.rglob("*.mp4")):
            tar.add(path, path.name)
    with tarfile.open(tmp_path / "all.tar") as tar:
        offsets = {member.name: (member.size, member.offset_data) for member in tar}
    odd = tmp_path / os.fsdecode(b"caf\xe9 \n.tar")
    (tmp_path / "all.tar").rename(odd)
    folder = keep_videos(
        tiny_shards, shapes_videos, tmp_path / "videos", lambda path: Place(str(odd), *offsets[path.name])
    )
    videos, latents = ClipDataset(folder, seed=0), ClipDataset(tiny_shards, seed=0)
    assert_same(encoded(collate([videos[Position(0, 3)]])), collate([latents[Position(0, 3)]]))


def test_each_clip_is_read_from_its_start(tiny_shards: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """Three clips of one video; the rate is that of the shards, 4 frames a second."""
    path = tmp_path / "long.mp4"
    write_mp4(path, rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8), fps=4)
    info = DatasetInfo.read(tiny_shards)
    some = ShardReader(tiny_shards / next(iter(info.shards)))[0]
    cuts = [Cut(Place(str(path), path.stat().st_size), float(start)) for start in range(3)]
    samples = [some._replace(id=str(cut.start), latents=None, cut=cut) for cut in cuts]
    shard = write_shard(tmp_path / "three.arrow", samples, "4x16x16")
    (tmp_path / "dataset.json").write_bytes(replace(info, shards={"three.arrow": shard}, holds="videos").to_bytes())
    dataset = ClipDataset(tmp_path, seed=0)
    found = {item.sample.id: item.frames for item in (dataset[Position(0, index)] for index in range(3))}
    windows = read_windows(path, DataConfig(**info.tables["data"]))
    for cut, window in zip(cuts, windows, strict=True):
        assert torch.equal(found[str(cut.start)], torch.from_numpy(window.frames))


@pytest.fixture
def breakable(tiny_shards: Path, shapes_videos: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Shards of videos, and the folder of these, a copy."""
    shutil.copytree(shapes_videos, tmp_path / "copies")
    return keep_videos(tiny_shards, tmp_path / "copies", tmp_path / "videos"), tmp_path / "copies"


def test_a_clip_that_cannot_be_decoded_is_replaced_and_told_once(breakable: tuple[Path, Path]) -> None:
    """By one that does not depend on what was read before; its neighbours stay what they are."""
    folder, copies = breakable
    before = [ClipDataset(folder, seed=0)[Position(0, index)] for index in range(60)]
    broken = {copies / before[index].sample.id.rpartition("#")[0] for index in (0, 1, 2, 7)}
    for path in broken:
        path.write_bytes(b"no video at all")
    dataset = ClipDataset(folder, seed=0)
    after = [dataset[Position(0, index)] for index in range(60)]
    again = [ClipDataset(folder, seed=0)[Position(0, index)] for index in reversed(range(60))][::-1]
    good = {item.sample.id for item in before if (copies / item.sample.id.rpartition("#")[0]) not in broken}
    for old, new, same in zip(before, after, again, strict=True):
        assert new.frames is not None
        assert torch.equal(new.frames, same.frames)
        assert new.seed == old.seed
        if old.sample.id in good:
            assert new.sample.id == old.sample.id
            assert torch.equal(new.frames, old.frames)
            assert not new.problems
        else:
            assert new.sample.id in good
            assert {Path(file) for file, _ in new.problems} <= broken
    assert len({item.sample.id for item in after if item.problems}) > 1
    second = [dataset[Position(0, 60 + index)] for index in range(60)]
    replaced = [{item.seed: item.sample.id for item in epoch if item.problems} for epoch in (after, second)]
    assert set(replaced[0].values()) != set(replaced[1].values())

    told: list[str] = []
    encoder = OnTheFly(PixelAutoencoder(), CPU, told.append)
    for epoch in (after, second):
        for start in range(0, 60, 10):
            encoder.encode(collate(epoch[start : start + 10]))
    words = "is text, not a video: other clips are shown in place of its clips"
    assert sorted(told) == sorted(f"{path} {words}" for path in broken)


def test_when_nothing_can_be_decoded_training_stops(breakable: tuple[Path, Path]) -> None:
    folder, copies = breakable
    copies.rename(copies.with_name("moved"))
    batch = collate([ClipDataset(folder, seed=0)[Position(0, 0)]])
    with pytest.raises(UserError, match=r"many clips in a row could not .* does not exist: see that the videos are w"):
        encoded(batch, [])
