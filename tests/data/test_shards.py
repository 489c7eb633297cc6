"""What shards give back is what was put in."""

import io
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet, ref

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from data.shards import ROWS, Cut, ShardReader, StoredSample, shard_of
from data.storage import Place
from video_dit.contracts import ClipInfo, TextCondition
from video_dit.errors import UserError

LATENTS, TOKENS, WIDTH = (2, 3, 4, 5), 6, 7


def samples_of(holds: str, pooled_width: int) -> Iterator[StoredSample]:
    """More than two record batches of samples with one caption to three."""
    generator = torch.Generator().manual_seed(0)

    def floats(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    for number in range(2 * ROWS + 3):
        captions = 1 + number % 3
        text = TextCondition(
            floats(captions, TOKENS, WIDTH), floats(captions, TOKENS) > 0, floats(captions, pooled_width)
        )
        yield StoredSample(
            id=f"clip {number}",
            captions=tuple(f"caption {index} of {number}" for index in range(captions)),
            weights=tuple(float(1 + index) for index in range(captions)),
            latents=None if holds == "videos" else floats(*LATENTS),
            latents_std=floats(*LATENTS) if holds == "posteriors" else None,
            text=text,
            clip=ClipInfo(*(torch.full(shape, float(number)) for shape in ((), (2,), (2,)))),
            cut=Cut(Place(f"caf\udce9 {number}", number, 2 * number), number / 3) if holds == "videos" else None,
        )


def equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, TextCondition | ClipInfo) and isinstance(other, tuple):
        return all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(("holds", "pooled_width"), [("latents", 3), ("posteriors", 0), ("videos", 3)])
def test_a_shard_gives_back_what_it_was_made_of(holds: str, pooled_width: int, tmp_path: Path) -> None:
    written = list(samples_of(holds, pooled_width))
    content, info = shard_of(iter(written), "bucket")
    (tmp_path / "shard.arrow").write_bytes(content)
    reader = ShardReader(tmp_path / "shard.arrow")
    assert info.clips == len(reader) == len(written)
    assert reader.ids() == [sample.id for sample in written]
    for index in torch.randperm(len(written)).tolist():
        assert all(map(equal, reader[index], written[index])), index


def test_no_more_samples_are_held_than_a_record_batch_has() -> None:
    alive: WeakSet[Tensor] = WeakSet()
    most = 0

    def watched() -> Iterator[StoredSample]:
        nonlocal most
        for sample in samples_of("latents", 3):
            alive.add(sample.latents)
            most = max(most, len(alive))
            yield sample
            del sample

    shard_of(watched(), "bucket")
    assert most == ROWS
    assert not alive


def test_a_shard_that_is_made_keeps_no_memory_of_its_samples() -> None:
    sample = next(samples_of("latents", 3))
    memory = np.ones(LATENTS, np.int16)
    own = sample._replace(latents=torch.from_numpy(memory).view(torch.bfloat16))
    content, info = shard_of([own], "bucket")
    assert (info.clips, memory.tobytes() in bytes(content)) == (1, True)
    memory = ref(memory)
    del own
    assert memory() is None


@pytest.fixture
def with_room_for(request: pytest.FixtureRequest) -> Iterator[None]:
    """So many more files can be open at a time."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    following = os.dup(0)
    os.close(following)
    resource.setrlimit(resource.RLIMIT_NOFILE, (following + request.param, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    content, _ = shard_of(samples_of("latents", 3), "bucket")
    (tmp_path / "shard.arrow").write_bytes(content)
    return tmp_path / "shard.arrow"


@pytest.mark.parametrize("with_room_for", [2], indirect=True)
@pytest.mark.usefixtures("shard", "with_room_for")
def test_more_shards_are_read_than_files_may_be_open(shard: Path) -> None:
    readers = [ShardReader(shard) for _ in range(10)]
    assert {reader.ids()[3] for reader in readers} == {reader[3].id for reader in readers} == {"clip 3"}


@pytest.mark.parametrize("with_room_for", [0], indirect=True)
@pytest.mark.usefixtures("shard", "with_room_for")
def test_a_shard_that_cannot_be_opened_is_not_called_damaged(shard: Path) -> None:
    with pytest.raises(UserError, match=r"shard.arrow cannot be opened \(Too many open files\): mend that"):
        ShardReader(shard)


def test_shards_of_another_version_are_refused(tmp_path: Path) -> None:
    content, _ = shard_of(samples_of("latents", 3), "bucket")
    with pa.ipc.open_file(io.BytesIO(content)) as shard:
        table = shard.read_all().drop_columns(["fps", "crop"])
    with pa.OSFile(str(tmp_path / "old.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=r"old.arrow has other columns .*\(crop, fps\): preprocess with --overwrite"):
        ShardReader(tmp_path / "old.arrow")
