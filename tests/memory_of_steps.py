"""As a program, on one rank or several: what torch's allocator counts while a run's second step is computed.

Arguments are lists of overrides, as JSON, one for each run. Rank 0 prints a JSON line for each: the bytes at the peak.
"""

import gc
import json
import sys

import torch
from random_inputs import random_batch
from torch.profiler import ProfilerActivity, profile, record_function

from video_dit.config import Config, load_config
from video_dit.contracts import EncodedShape, TextCondition
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.models import build_model
from video_dit.models.trained import choose_trained
from video_dit.training.averages import AveragedWeights
from video_dit.training.deepspeed_config import micro_batch_size
from video_dit.training.engine import Engine, ranks
from video_dit.training.loss import LossFunction


def encoded_shape(config: Config) -> EncodedShape:
    autoencoder, text_encoder = build_autoencoder(config.autoencoder), build_text_encoder(config.text_encoder)
    return EncodedShape.of(config.data.grid, autoencoder, text_encoder)


def measure(config: Config) -> int:
    """Bytes at the peak of the second step, with everything that is there."""
    encoded = encoded_shape(config)
    gc.collect()  # what an earlier run left must not be freed while this one is counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build_model(config, encoded)
        choose_trained(model, config)
        engine = Engine(model, config)
        averages = AveragedWeights(engine.shards(), config.training)
        batch_size = micro_batch_size(config, engine.num_ranks)
        batch = random_batch(batch_size, encoded)
        loss_function = LossFunction(
            config, TextCondition(*(x[:1] for x in batch.text)), encoded.segments, engine.device
        )
        for step in ("first", "second"):
            with record_function(f"{step} step"):
                for _ in range(engine.micro_batches_per_step):
                    loss = loss_function(engine.model, batch).mean
                    engine.backward(loss)
                    del loss
                averages.update(engine.shards(), 0)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    start = next(event.start_ns() for event in events if event.name() == "second step")
    live = peak = 0
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live) if event.start_ns() > start else live
    return peak


if __name__ == "__main__":
    with ranks() as rank:
        for overrides in sys.argv[1:]:
            torch.manual_seed(0)
            measured = measure(load_config(None, json.loads(overrides)))
            if rank == 0:
                print(json.dumps(measured), flush=True)
