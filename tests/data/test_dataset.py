import hashlib
import json
import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from preprocessed import write_shard
from torch.utils.data import DataLoader, Dataset

from data.dataset import ClipDataset, load_batches, load_once, lost_readers_told
from data.dataset_info import DatasetInfo, verify
from data.order import Position, Schedule, micro_batch_positions
from data.shards import ShardReader
from video_dit.config import Config
from video_dit.contracts import EncodedShape, TextCondition
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.errors import UserError

BATCH_SIZE = 8
ONE_BUCKET = Schedule([60], seed=0)


def batch_of_step(dataset: ClipDataset, step: int, num_ranks: int, micro: int) -> list[int]:
    """The seeds that all ranks together read in a step, in the order of the global batch."""
    micro_batches = BATCH_SIZE // (num_ranks * micro)
    per_rank = [
        list(islice(micro_batch_positions(ONE_BUCKET, rank, num_ranks, micro, BATCH_SIZE, step), micro_batches))
        for rank in range(num_ranks)
    ]
    order = [position for turn in zip(*per_rank, strict=True) for positions in turn for position in positions]
    return [dataset[position][1] for position in order]


@pytest.mark.parametrize(("num_ranks", "micro"), [(1, 8), (1, 2), (2, 4), (2, 1), (4, 2), (8, 1)])
def test_a_step_is_the_same_batch_however_it_is_shared(tiny_shards: Path, num_ranks: int, micro: int) -> None:
    dataset = ClipDataset(tiny_shards, seed=3)
    for step in (0, 5, 20):
        assert batch_of_step(dataset, step, num_ranks, micro) == batch_of_step(dataset, step, 1, BATCH_SIZE)


def test_starting_at_a_step_is_going_on_from_it() -> None:
    from_start = islice(micro_batch_positions(ONE_BUCKET, 1, 2, 2, BATCH_SIZE, 0), 6, 10)
    assert list(from_start) == list(islice(micro_batch_positions(ONE_BUCKET, 1, 2, 2, BATCH_SIZE, 3), 4))


def test_an_epoch_visits_every_clip_once_and_each_in_its_own_order(tiny_shards: Path) -> None:
    dataset = ClipDataset(tiny_shards, seed=0)
    size = len(dataset)
    first, second = ([dataset[Position(0, epoch * size + k)][0].id for k in range(size)] for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert len(set(first)) == size
    assert first != second
    assert first != [ClipDataset(tiny_shards, seed=1)[Position(0, k)][0].id for k in range(size)]


def test_seeds_differ_by_epoch_by_sample_and_by_run(tiny_shards: Path) -> None:
    dataset = ClipDataset(tiny_shards, seed=0)
    seeds = [dataset[Position(0, position)][1] for position in range(2 * len(dataset))]
    seeds += [ClipDataset(tiny_shards, seed=1)[Position(0, position)][1] for position in range(len(dataset))]
    assert len(set(seeds)) == len(seeds)


def test_the_order_does_not_depend_on_how_clips_lie_in_shards(tiny_shards: Path, tmp_path: Path) -> None:
    info = DatasetInfo.read(tiny_shards)
    samples = [sample for name in info.shards for sample in ShardReader(tiny_shards / name)]
    shard = write_shard(tmp_path / "one.arrow", samples[::-1], "4x16x16")
    (tmp_path / "dataset.json").write_bytes(replace(info, shards={"one.arrow": shard}).to_bytes())
    ours, theirs = ClipDataset(tmp_path, seed=0), ClipDataset(tiny_shards, seed=0)
    assert [ours[Position(0, k)][0].id for k in range(10)] == [theirs[Position(0, k)][0].id for k in range(10)]


def test_the_caption_that_a_sample_shows_depends_on_seed_epoch_and_id_alone(tiny_shards: Path, tmp_path: Path) -> None:
    """Each epoch draws anew, by weight; how clips lie in shards and what is read before changes nothing."""
    info = DatasetInfo.read(tiny_shards)
    stored = [sample for name in info.shards for sample in ShardReader(tiny_shards / name)]
    pairs = [
        sample._replace(
            captions=("a", "b"),
            weights=(1.0, 3.0),
            text=TextCondition(*(torch.cat([tensor, tensor]) for tensor in sample.text)),
        )
        for sample in stored
    ]
    for folder, order in (("one", pairs), ("other", pairs[::-1])):
        (tmp_path / folder).mkdir()
        shard = write_shard(tmp_path / folder / "all.arrow", order, "4x16x16")
        (tmp_path / folder / "dataset.json").write_bytes(replace(info, shards={"all.arrow": shard}).to_bytes())

    def shown(folder: str, seed: int, epochs: range) -> dict[tuple[int, str], str]:
        dataset = ClipDataset(tmp_path / folder, seed)
        places = [
            (epoch, dataset[Position(0, epoch * len(dataset) + k)][0]) for epoch in epochs for k in range(len(dataset))
        ]
        return {(epoch, sample.id): sample.caption for epoch, sample in places}

    drawn = shown("one", 0, range(20))
    assert shown("other", 0, range(20)) == drawn
    assert shown("one", 0, range(7, 8)) == {key: caption for key, caption in drawn.items() if key[0] == 7}
    assert shown("one", 1, range(20)) != drawn
    by_epoch = [tuple(caption for key, caption in sorted(drawn.items()) if key[0] == epoch) for epoch in range(20)]
    assert len(set(by_epoch)) == 20
    share = sum(caption == "b" for caption in drawn.values()) / len(drawn)
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / len(drawn)) ** 0.5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_hold_what_the_shards_hold(tiny_shards: Path, num_workers: int) -> None:
    dataset = ClipDataset(tiny_shards, seed=0)
    positions = micro_batch_positions(ONE_BUCKET, 0, 1, BATCH_SIZE, BATCH_SIZE, 0)
    batches = list(islice(load_batches(dataset, positions, num_workers), 3))
    for step, batch in enumerate(batches):
        for row in range(BATCH_SIZE):
            sample, seed, place = dataset[Position(0, step * BATCH_SIZE + row, BATCH_SIZE)][:3]
            assert torch.equal(batch.latents[row], sample.latents.float())
            assert torch.equal(batch.text.embeds[row], sample.text.embeds)
            assert batch.ids[row] == sample.id
            assert batch.seeds[row] == seed
            assert batch.places[row].tolist() == list(place) == [row, BATCH_SIZE]


@pytest.mark.parametrize(("num_ranks", "num_clips"), [(1, 10), (3, 10), (4, 1000)])
def test_each_held_out_clip_is_read_once_whoever_reads_it(tiny_shards: Path, num_ranks: int, num_clips: int) -> None:
    """The clips that count are those of one rank, and all ranks have as many batches of the same sizes."""
    dataset = ClipDataset(tiny_shards, seed=0)
    of_rank = [list(load_once(dataset, num_clips, rank, num_ranks, batch_size=4)) for rank in range(num_ranks)]
    seeds = [int(seed) for batches in of_rank for batch, counted in batches for seed in batch.seeds[counted]]
    alone = next(iter(load_once(dataset, num_clips, 0, 1, batch_size=1000)))[0].seeds.tolist()
    assert sorted(seeds) == sorted(alone)
    assert len(set(seeds)) == min(num_clips, len(dataset))
    assert len({tuple(len(batch.seeds) for batch, _ in batches) for batches in of_rank}) == 1


def test_a_dataset_travels_to_another_process(tiny_shards: Path) -> None:
    dataset = ClipDataset(tiny_shards, seed=0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy[Position(0, 7)][0].id == dataset[Position(0, 7)][0].id


def test_what_is_missing_or_damaged_is_named(tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no shards.*scripts/preprocess.py"):
        ClipDataset(tmp_path, seed=0)
    info = DatasetInfo.read(tiny_shards)
    name = next(iter(info.shards))
    (tmp_path / "dataset.json").write_bytes(info.to_bytes())
    with pytest.raises(UserError, match=f"{name} is missing: preprocess again"):
        ClipDataset(tmp_path, seed=0)
    (tmp_path / name).write_bytes((tiny_shards / name).read_bytes()[:-200])
    with pytest.raises(UserError, match=f"{name} is damaged: it has .* bytes instead of .*: preprocess again"):
        ClipDataset(tmp_path, seed=0)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        ShardReader(tmp_path / name)


def test_a_changed_byte_is_found(tiny_shards: Path, tmp_path: Path) -> None:
    info = DatasetInfo.read(tiny_shards)
    first, second = info.shards
    for name in info.shards:
        (tmp_path / name).write_bytes((tiny_shards / name).read_bytes())
    (tmp_path / "dataset.json").write_bytes(info.to_bytes())
    assert verify(tmp_path) == []
    expected = hashlib.blake2b((tmp_path / first).read_bytes(), digest_size=16).hexdigest()
    assert info.shards[first].checksum == expected
    content = bytearray((tmp_path / second).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / second).write_bytes(content)
    assert verify(tmp_path) == [f"{tmp_path / second} holds other bytes than were written"]
    (tmp_path / first).unlink()
    assert verify(tmp_path)[0] == f"{tmp_path / first} is missing"


def test_what_the_encoders_made_of_the_clips_is_kept_with_them(tiny_shards: Path, tiny_config: Config) -> None:
    autoencoder, text_encoder = build_autoencoder(tiny_config.autoencoder), build_text_encoder(tiny_config.text_encoder)
    dataset = ClipDataset(tiny_shards, seed=0)
    assert dataset.info.encoded == EncodedShape.of(tiny_config.data.grid, autoencoder, text_encoder)
    assert dataset.text_segments() == text_encoder.segments
    sample = dataset[Position(0, 0)][0]
    assert sample.latents.shape == (dataset.info.encoded.channels, *dataset.info.encoded.grid)
    assert sample.text.embeds.shape == (dataset.info.encoded.text_length, dataset.info.encoded.text_width)


def test_a_dataset_file_of_another_version_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    values = json.loads((tiny_shards / "dataset.json").read_text())
    assert values["version"] == 4
    old = {key: values[key] for key in ("tables", "inputs", "encoded")}
    for other, version in ((old, 1), ({**values, "version": 2}, 2), ({**values, "version": 5}, 5)):
        (tmp_path / "dataset.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match=rf"json is of version {version}, and this is 4: preprocess with --over"):
            DatasetInfo.read(tmp_path)


def test_a_dataset_file_says_what_was_written(tiny_shards: Path, tmp_path: Path) -> None:
    info = DatasetInfo.read(tiny_shards)
    (tmp_path / "dataset.json").write_bytes(info.to_bytes())
    assert DatasetInfo.read(tmp_path) == info
    assert list(info.buckets) == ["4x16x16"]
    assert info.buckets["4x16x16"].latents == info.encoded.grid
    other = {**info.fingerprints, "autoencoder": "another"}
    assert replace(info, fingerprints=other).differing_keys(info) == ["autoencoder"]
    assert replace(info, fingerprints={**other, "autoencoder": None}).differing_keys(info) == []
    assert replace(info, buckets={}).differing_keys(info) == []
    assert info.differing_keys(replace(info, buckets={})) == ["shape of clips (4x16x16)"]


class Broken(Dataset[None]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> None:
        raise RuntimeError("the cause")


def test_an_error_in_a_reader_is_no_lost_reader() -> None:
    with pytest.raises(RuntimeError, match="the cause"), lost_readers_told(0):
        next(iter(DataLoader(Broken(), num_workers=1)))
