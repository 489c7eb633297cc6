"""Loading from shards, as training does it, against the speed at which a model consumes samples; and its memory."""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from model_inputs import first_batches, say

from data.dataset import ClipDataset, load_batches
from data.order import Schedule, micro_batch_positions
from video_dit.config import load_config
from video_dit.contracts import Batch
from video_dit.errors import UserError
from video_dit.models import build_model
from video_dit.training.loss import LossFunction

WARM_UPS = 2


def measure_loading(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Samples per second of the loader and of the model, their ratio, and the memory after each epoch.

    The model's are those of its loss and gradients alone: without the optimizer it consumes more than in training.

    Raises:
        UserError: the folder holds no shards, or the config does not fit them.
    """
    dataset = ClipDataset(args.shards, seed=0)
    consumed = consumption(dataset, args, device)
    batch_size = args.batch_size
    steps = -(-len(dataset) // batch_size)
    positions = micro_batch_positions(Schedule(dataset.counts, 0), 0, 1, batch_size, batch_size, 0)
    batches = load_batches(dataset, positions, args.num_workers)
    loaded, memory = [], []
    for epoch in range(args.epochs):
        start = time.perf_counter()
        for _ in islice(batches, steps):
            pass
        loaded.append(steps * batch_size / (time.perf_counter() - start))
        memory.append(resident_memory())
        say(f"epoch {epoch + 1}: {loaded[-1]:,.0f} samples/s, {memory[-1]['own'] / 2**20:,.1f} MiB")
    return {
        "clips": len(dataset),
        "batch_size": batch_size,
        "num_workers": args.num_workers,
        "loaded_per_second": loaded,
        "consumed_per_second": consumed,
        "ratio": median(loaded) / consumed,
        "memory": memory,
    }


def consumption(dataset: ClipDataset, args: argparse.Namespace, device: torch.device) -> float:
    """Samples per second of the loss and its gradients, on latents of the first shape."""
    config = load_config(args.config, fixed=dataset.info.tables)
    encoded, batch_size = dataset.info.encoded, args.batch_size
    torch.manual_seed(0)
    latents = torch.randn(batch_size, encoded.channels, *dataset.buckets[0].latents)
    batch = Batch(latents, *next(first_batches(dataset, batch_size))[1:6])
    model = build_model(config, encoded).to(device)
    loss_function = LossFunction(config, dataset.empty_prompt(), dataset.text_segments(), device)
    seconds = [_step(model, loss_function, batch) for _ in range(WARM_UPS + args.repeats)]
    return batch_size / median(seconds[WARM_UPS:])


def _step(model: torch.nn.Module, loss_function: LossFunction, batch: Batch) -> float:
    start = time.perf_counter()
    model.zero_grad()
    loss_function(model, batch).mean.backward()
    if loss_function.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def resident_memory() -> dict[str, int]:
    """Bytes of this process and its loaders: their own, and what they see of the shards through memory maps.

    Raises:
        UserError: the system does not say.
    """
    total = {"own": 0, "mapped": 0}
    names = {"RssAnon": "own", "RssShmem": "own", "RssFile": "mapped"}
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        for name, kilobytes in _status(Path(f"/proc/{pid}/status")):
            if name in names:
                total[names[name]] += kilobytes * 1024
    return total


def _status(file: Path) -> Iterator[tuple[str, int]]:
    if not file.exists():
        raise UserError("the memory of a process can be read where there is /proc, on Linux: leave this benchmark out")
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.split()[0])


def loading_table(result: dict[str, Any]) -> str:
    """One line each for the speed and for the memory, which is flat if its last number is no more than its second."""
    own = [f"{memory['own'] / 2**20:,.1f}" for memory in result["memory"]]
    return (
        f"loads {median(result['loaded_per_second']):,.0f} samples/s with {result['num_workers']} workers; the model "
        f"consumes {result['consumed_per_second']:,.0f}: ratio {result['ratio']:.1f}\n"
        f"MiB after each epoch: {' '.join(own)}"
    )
