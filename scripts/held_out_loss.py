"""The loss of finished runs on clips that they were not trained on, with the noise that training's validation draws."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import ClipDataset, load_once
from data.on_the_fly import OnTheFly
from video_dit.evaluation.intervals import bootstrap_interval
from video_dit.precision import autocast
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.loss import LossFunction
from video_dit.training.validation import NOISE_RATIOS, validate


def held_out_loss(pipeline: VideoPipeline, shards: Path, num_clips: int) -> dict[str, Any]:
    """The means over clips of what `Validation.figures` gives of each, with their intervals, and the number of clips.

    Args:
        pipeline: of the run, whose averaged weights are measured.
        shards: folder of clips with the run's encoders; the first in the order of their ids are taken, of all shapes.
        num_clips: at most so many.

    Raises:
        UserError: there are fewer than 2.
    """
    dataset = ClipDataset(shards, seed=0)
    loss_function = LossFunction(pipeline.config, dataset.empty_prompt(), dataset.text_segments(), pipeline.device)
    encoder = OnTheFly(pipeline.autoencoder, pipeline.device, print)
    batches = ((encoder.encode(clip), counted) for clip, counted in load_once(dataset, num_clips, 0, 1, batch_size=1))
    of_clips = []
    for batch in batches:  # encoded in the autoencoder's own precision, as for training
        with autocast(pipeline.device, pipeline.precision):
            of_clips.append(validate(pipeline.model, loss_function, [batch]).figures())
    by_t = np.array([figures["loss_by_t"] for figures in of_clips])
    by_ratio = np.array([[*figures["data_error_by_noise_ratio"].values()] for figures in of_clips])
    return {
        "clips": len(of_clips),
        "loss": _mean(by_t.mean(1)),
        "loss_by_t": [_mean(of_bin) for of_bin in by_t.T],
        "data_error": _mean(by_ratio.mean(1)),
        "data_error_by_noise_ratio": dict(zip(NOISE_RATIOS, map(_mean, by_ratio.T), strict=True)),
    }


def _mean(of_clips: NDArray[np.floating]) -> dict[str, float]:
    return bootstrap_interval(of_clips)._asdict()
