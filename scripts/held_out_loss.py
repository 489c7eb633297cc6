"""The loss of finished runs on clips that they were not trained on, with the noise that training's validation draws."""

from pathlib import Path
from typing import Any

import torch

from data.dataset import ClipDataset, load_once
from data.on_the_fly import FrameBatch, OnTheFly
from video_dit.diffusion.objective import NUM_BINS
from video_dit.encoders.fingerprint import check_encoders
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.devices import DTYPES
from video_dit.training.loss import LossFunction, means
from video_dit.training.validation import NOISE_RATIOS, validate


def held_out_loss(pipeline: VideoPipeline, shards: Path, num_clips: int, batch_size: int) -> dict[str, Any]:
    """The loss in the `NUM_BINS` parts of t and the error of the data at each of the `NOISE_RATIOS`, with their means.

    Args:
        pipeline: of the run, whose averaged weights are measured.
        shards: folder of clips, of which the first in the order of their ids are taken, of all shapes.
        num_clips: at most so many.
        batch_size: computed together.

    Raises:
        UserError: the clips were encoded otherwise than the run's.
    """
    dataset = ClipDataset(shards, seed=0)
    check_encoders(pipeline.config, dataset.info.fingerprints, str(shards))
    loss_function = LossFunction(pipeline.config, dataset.empty_prompt(), dataset.text_segments(), pipeline.device)
    encoder = OnTheFly(pipeline.autoencoder, pipeline.device, print)
    batches = (
        (encoder.encode(batch) if isinstance(batch, FrameBatch) else batch, counted)
        for batch, counted in load_once(dataset, num_clips, 0, 1, batch_size)
    )
    with torch.autocast(pipeline.device.type, DTYPES[pipeline.precision], enabled=pipeline.precision != "fp32"):
        by_bin, data_error = (means(sums) for sums in validate(pipeline.model, loss_function, batches))
    return {
        "loss": sum(by_bin) / NUM_BINS, "loss_by_t": by_bin,
        "data_error": sum(data_error) / len(data_error),
        "data_error_by_noise_ratio": dict(zip(NOISE_RATIOS, data_error, strict=True)),
    }  # fmt: skip
