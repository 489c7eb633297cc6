from itertools import islice
from pathlib import Path

import pytest
from two_buckets import SMALL, two_buckets

from data.dataset import ClipDataset, load_batches, load_once
from data.order import Position, Schedule, batch_multiples, micro_batch_positions

COUNTS = [1000, 300, 77, 5, 12000, 1]
BATCH_SIZE = 8


def test_each_bucket_has_its_share_of_the_steps_at_all_times() -> None:
    schedule = Schedule(COUNTS, seed=3)
    taken = [0] * len(COUNTS)
    for step in range(20_000):
        taken[schedule.bucket(step)] += 1
        shares = [(step + 1) * count / sum(COUNTS) for count in COUNTS]
        assert max(abs(ours - share) for ours, share in zip(taken, shares, strict=True)) < 4
    assert taken == [schedule.steps_before(20_000, bucket) for bucket in range(len(COUNTS))]


def test_the_schedule_of_a_late_step_is_counted_as_it_is_walked() -> None:
    """Across the end of a chunk, and where 64 bits have run over."""
    schedule = Schedule([3, 5, 2], seed=1)
    begin, end = (1 << 20) - 50, (1 << 20) + 50
    walked = [schedule.bucket(step) for step in range(begin, end)]
    for bucket in range(3):
        assert schedule.steps_before(end, bucket) - schedule.steps_before(begin, bucket) == walked.count(bucket)
    assert [Schedule([3, 5, 2], seed=2).bucket(step) for step in range(begin, end)] != walked


def test_smaller_clips_have_larger_batches_and_fewer_steps() -> None:
    """Every clip is shown as often as any other, but for those of a bucket with a weight."""
    multiples = batch_multiples([100, 49, 30], by_tokens=True)
    assert multiples == [1, 2, 3]
    assert batch_multiples([100, 49, 30], by_tokens=False) == [1, 1, 1]
    counts, weights = [400, 400, 400], [1.0, 1.0, 0.25]
    schedule = Schedule(counts, 0, multiples, weights)
    shown = [0, 0, 0]
    batches = [micro_batch_positions(schedule, rank, 2, 2, BATCH_SIZE, 0) for rank in range(2)]
    for step in range(1200):
        turns = [[next(of_rank) for of_rank in batches] for _ in range(2)]
        positions = [position for turn in turns for micro_batch in turn for position in micro_batch]
        bucket = schedule.bucket(step)
        assert len(positions) == BATCH_SIZE * multiples[bucket]
        assert [position.index for position in positions] == list(range(shown[bucket], shown[bucket] + len(positions)))
        assert {position.batch_size for position in positions} == {len(positions)}
        shown[bucket] += len(positions)
    epochs = [number / count for number, count in zip(shown, counts, strict=True)]
    assert epochs[1] == pytest.approx(epochs[0], abs=0.1)
    assert epochs[2] == pytest.approx(epochs[0] / 4, abs=0.1)


def test_one_bucket_takes_every_step() -> None:
    positions = micro_batch_positions(Schedule([60], seed=0), 0, 1, BATCH_SIZE, BATCH_SIZE, first_step=7)
    assert next(positions) == [Position(0, index, BATCH_SIZE) for index in range(56, 64)]


@pytest.mark.parametrize(("num_ranks", "micro"), [(1, 8), (2, 4), (2, 1), (4, 2)])
def test_a_step_is_of_one_bucket_and_the_same_however_it_is_shared(num_ranks: int, micro: int) -> None:
    schedule = Schedule([40, 20], seed=0)
    alone = list(islice(micro_batch_positions(schedule, 0, 1, BATCH_SIZE, BATCH_SIZE, 0), 30))
    per_step = BATCH_SIZE // (num_ranks * micro)
    for first_step in (0, 11):
        of_ranks = [
            micro_batch_positions(schedule, rank, num_ranks, micro, BATCH_SIZE, first_step) for rank in range(num_ranks)
        ]
        for step in range(first_step, 30):
            turns = [[next(positions) for positions in of_ranks] for _ in range(per_step)]
            assert [position for turn in turns for micro_batch in turn for position in micro_batch] == alone[step]
    assert {len({position.bucket for position in batch}) for batch in alone} == {1}
    for bucket in range(2):  # its own epochs, without a gap
        indices = [position.index for batch in alone for position in batch if position.bucket == bucket]
        assert indices == list(range(len(indices)))


def test_batches_of_two_shapes_come_in_proportion_and_visit_every_clip(tiny_shards: Path, tmp_path: Path) -> None:
    dataset = ClipDataset(two_buckets(tiny_shards, tmp_path), seed=0)
    assert [bucket.name for bucket in dataset.buckets] == ["2x16x8", "4x16x16"]
    assert dataset.counts == [20, 40]
    positions = micro_batch_positions(Schedule(dataset.counts, 0), 0, 1, 4, 4, 0)
    batches = list(islice(load_batches(dataset, positions, 0), 36))
    shapes = [tuple(batch.latents.shape[2:]) for batch in batches]
    assert set(shapes) == {SMALL, (4, 16, 16)}
    assert abs(shapes.count(SMALL) - 12) <= 1
    for bucket, count in enumerate(dataset.counts):
        epochs = [[dataset[Position(bucket, epoch * count + k)][0].id for k in range(count)] for epoch in (0, 1)]
        assert len(set(epochs[0])) == count
        assert epochs[0] != epochs[1]
        assert set(epochs[0]) == set(epochs[1])


@pytest.mark.parametrize(("num_ranks", "num_clips"), [(1, 30), (2, 25), (3, 1000)])
def test_held_out_clips_of_two_shapes_are_read_once(
    tiny_shards: Path, tmp_path: Path, num_ranks: int, num_clips: int
) -> None:
    """In batches of one shape, the same shapes on every rank; the clips are the first by id, whatever their shape."""
    dataset = ClipDataset(two_buckets(tiny_shards, tmp_path), seed=0)
    of_rank = [list(load_once(dataset, num_clips, rank, num_ranks, batch_size=4)) for rank in range(num_ranks)]
    assert len({tuple(batch.latents.shape for batch, _ in batches) for batches in of_rank}) == 1
    seeds = [int(seed) for batches in of_rank for batch, counted in batches for seed in batch.seeds[counted]]
    by_id = {}
    for bucket, count in enumerate(dataset.counts):
        for index in range(count):
            sample, seed = dataset[Position(bucket, index)][:2]
            by_id[sample.id] = seed
    assert sorted(seeds) == sorted(seed for _, seed in sorted(by_id.items())[:num_clips])
