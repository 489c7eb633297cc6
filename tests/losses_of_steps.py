"""As a program, on one rank or several: the losses of a few steps under other settings, each run resumed in between.

The first argument is a folder for pieces of checkpoints; the others are lists of overrides, as JSON, one for each run.
Rank 0 prints a JSON line for each.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from memory_of_steps import encoded_shape
from random_inputs import random_batch

from video_dit.config import Config, load_config
from video_dit.contracts import Batch, ClipInfo, EncodedShape, TextCondition
from video_dit.models import build_model
from video_dit.training.deepspeed_config import micro_batch_size
from video_dit.training.engine import Engine, ranks
from video_dit.training.loss import LossFunction
from video_dit.training.piece_files import PieceReader, write_pieces

NUM_STEPS = 3
"""Before the run is resumed, and after."""


class Run(NamedTuple):
    """All that `steps` takes."""

    engine: Engine
    config: Config
    encoded: EncodedShape
    batch: Batch

    @classmethod
    def of(cls, overrides: str) -> "Run":
        """Of overrides, as JSON."""
        config = load_config(None, json.loads(overrides))
        encoded = encoded_shape(config)
        torch.manual_seed(0)
        batch = random_batch(config.training.batch_size, encoded)
        return cls(fresh_engine(config, encoded), config, encoded, batch)


def losses_of_run(overrides: str, folder: Path) -> list[float]:
    """The loss of each step; after the first half the state goes through a checkpoint's files to a fresh engine."""
    run = Run.of(overrides)
    losses = list(steps(*run))
    engine = run.engine
    write_pieces(folder, engine.rank, engine.copy_of_pieces())
    counters = engine.counters()
    dist.barrier()
    engine = fresh_engine(run.config, run.encoded)
    engine.load(PieceReader(folder).read, counters)
    return losses + list(steps(*run._replace(engine=engine)))


def fresh_engine(config: Config, encoded: EncodedShape) -> Engine:
    torch.manual_seed(1)
    return Engine(build_model(config, encoded), config)


def steps(
    engine: Engine,
    config: Config,
    encoded: EncodedShape,
    batch: Batch,
    num_steps: int = NUM_STEPS,
    withhold: bool = False,
) -> Iterator[float]:
    """The loss of each step on the same batch, of which every rank takes its micro-batches."""
    empty_prompt = TextCondition(*(x[:1] for x in batch.text))
    loss_function = LossFunction(config, empty_prompt, encoded.segments, engine.device)
    micro = micro_batch_size(config, engine.num_ranks)
    for _ in range(num_steps):
        total = torch.zeros((), device=engine.device)
        for number in range(engine.micro_batches_per_step):
            start = (number * engine.num_ranks + engine.rank) * micro
            loss = loss_function(engine.model, rows(batch, slice(start, start + micro))).mean
            engine.backward(loss, withhold and number == engine.micro_batches_per_step - 1)
            total += loss.detach() * micro
        yield float(engine.sum_over_ranks(total)) / config.training.batch_size


def rows(batch: Batch, which: slice) -> Batch:
    text, clip = TextCondition(*(x[which] for x in batch.text)), ClipInfo(*(x[which] for x in batch.clip))
    return Batch(batch.latents[which], text, clip, batch.seeds[which], batch.places[which], batch.ids[which])


if __name__ == "__main__":
    with ranks() as rank:
        for number, overrides in enumerate(sys.argv[2:]):
            folder = Path(sys.argv[1]) / str(number)
            folder.mkdir(exist_ok=True)
            losses = losses_of_run(overrides, folder)
            if rank == 0:
                print(json.dumps(losses), flush=True)
