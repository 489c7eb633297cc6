import threading
from collections.abc import Iterator
from itertools import count

import pytest
import torch
from random_inputs import random_batch

from video_dit.contracts import Batch, EncodedShape
from video_dit.errors import UserError
from video_dit.shapes import Grid
from video_dit.training.draws import Draws
from video_dit.training.read_ahead import read_ahead

CPU = torch.device("cpu")
SHAPE = EncodedShape(3, Grid(1, 2, 2), 2, 4, 4, ())


def numbered() -> Iterator[Batch]:
    batch = random_batch(1, SHAPE)
    return (batch._replace(seeds=torch.tensor([number])) for number in count())


def draws_of(batch: Batch) -> Draws:
    return Draws(batch.latents, batch.seeds, batch.seeds, batch.seeds)


def test_each_batch_comes_in_its_turn_with_its_own_draws() -> None:
    batches = read_ahead(numbered(), draws_of, CPU)
    for number in range(5):
        batch, draws = next(batches)
        assert batch.seeds == draws.t == number
    batches.close()  # type: ignore[attr-defined]


def test_one_batch_is_read_while_nobody_asks() -> None:
    """By another thread, and no more than one."""
    read, threads = threading.Semaphore(0), set()

    def source() -> Iterator[Batch]:
        for batch in numbered():
            threads.add(threading.current_thread())
            read.release()
            yield batch

    batches = read_ahead(source(), draws_of, CPU)
    next(batches)
    assert read.acquire(timeout=60)
    assert read.acquire(timeout=60)
    assert not read.acquire(blocking=False)
    assert len(threads - {threading.current_thread()}) == 1
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.is_alive() for thread in threads)


def test_what_goes_wrong_is_told_where_the_batch_would_come() -> None:
    def source() -> Iterator[Batch]:
        yield next(numbered())
        raise UserError("no more")

    batches = read_ahead(source(), draws_of, CPU)
    next(batches)
    with pytest.raises(UserError, match="no more"):
        next(batches)
