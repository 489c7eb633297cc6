"""The next batch is read, and its draws are made, while a step goes on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from video_dit.contracts import Batch
from video_dit.training.draws import Draws


def read_ahead(
    batches: Iterator[Batch], draws_of: Callable[[Batch], Draws], device: torch.device
) -> Iterator[tuple[Batch, Draws]]:
    """The batches, without an end, each with its draws; one of them is there before it is asked for.

    Args:
        batches: read in a thread of their own, all in the same one.
        draws_of: called there too.
        device: what the thread takes for the current GPU, as each thread has its own.
    """

    def read() -> tuple[Batch, Draws]:
        batch = next(batches)
        return batch, draws_of(batch)

    with ThreadPoolExecutor(1, "read-ahead", _use_device, (device,)) as reader:
        coming = reader.submit(read)
        while True:
            batch_and_draws = coming.result()
            coming = reader.submit(read)
            yield batch_and_draws


def _use_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
