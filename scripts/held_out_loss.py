"""The loss of finished runs on clips that they were not trained on, with the noise that training's validation draws."""

from pathlib import Path
from typing import Any

import torch

from data.dataset import ClipDataset, load_once
from data.on_the_fly import OnTheFly
from video_dit.encoders.fingerprint import check_encoders
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.devices import DTYPES
from video_dit.training.loss import LossFunction
from video_dit.training.validation import validate


def held_out_loss(pipeline: VideoPipeline, shards: Path, num_clips: int, batch_size: int) -> dict[str, Any]:
    """What `Validation.figures` gives.

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
    batches = ((encoder.encode(batch), counted) for batch, counted in load_once(dataset, num_clips, 0, 1, batch_size))
    with torch.autocast(pipeline.device.type, DTYPES[pipeline.precision], enabled=pipeline.precision != "fp32"):
        return validate(pipeline.model, loss_function, batches).figures()
