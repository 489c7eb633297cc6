"""Latents that are made while training runs, from the frames of shards that hold videos."""

from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from data.latents import draw_latents, encode
from video_dit.contracts import Autoencoder, Batch, ClipInfo, TextCondition
from video_dit.errors import RankError


class FrameBatch(NamedTuple):
    """A `Batch` that is still to be encoded.

    frames: uint8 [B, F, H, W, 3]; None where one could not be decoded, and nor could many others in its place.
    text, clip, seeds, places, ids: as in `Batch`.
    problems: files that could not be decoded, each with what is wrong; other clips stand in their places.
    """

    frames: Tensor | None
    text: TextCondition
    clip: ClipInfo
    seeds: Tensor
    places: Tensor
    ids: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]


class OnTheFly:
    """Encodes batches of frames; what comes out is what shards of the same clips would have given.

    Args:
        autoencoder: that of the run.
        device: where it is.
        tell: called once for each file that cannot be decoded.
    """

    def __init__(self, autoencoder: Autoencoder, device: torch.device, tell: Callable[[str], None]) -> None:
        self._autoencoder = autoencoder
        self._device = device
        self._tell = tell
        self._told: set[str] = set()
        self._alone = Lock()  # Wan keeps what it has seen of a clip in itself; a thread reads ahead while one validates

    @torch.no_grad()
    def encode(self, batch: Batch | FrameBatch) -> Batch:
        """With latents on the device, float32; a batch that has its latents passes.

        Raises:
            RankError: too many clips in a row could not be decoded.
        """
        if isinstance(batch, Batch):
            return batch
        for file, problem in batch.problems:
            if file not in self._told:
                self._told.add(file)
                self._tell(f"{file} {problem}: other clips are shown in place of its clips")
        if batch.frames is None:
            file, problem = batch.problems[-1]
            raise RankError(
                f"many clips in a row could not be decoded, the last because {file} {problem}: see that the videos are "
                "where they were, or preprocess again"
            )
        with self._alone:
            mean, std = encode(batch.frames.to(self._device), self._autoencoder)
        deviations = [None] * len(mean) if std is None else list(std)
        drawn = [draw_latents(*each) for each in zip(mean, deviations, batch.seeds.tolist(), strict=True)]
        return Batch(torch.stack(drawn), batch.text, batch.clip, batch.seeds, batch.places, batch.ids)
