"""As a program, on one rank or several: steps under fp16, whose scale of the loss is too large at first.

The arguments are lists of overrides, as JSON, one for each run. Rank 0 prints a JSON line for each: the loss and the
gradient's norm of the first steps that were taken, how many were left out, and the state of the scale.
"""

import json
import sys

import torch
from losses_of_steps import fresh_engine, steps
from memory_of_steps import encoded_shape
from random_inputs import random_batch

from video_dit.config import load_config
from video_dit.training import loss_scale
from video_dit.training.engine import ranks

NUM_TAKEN = 6

if __name__ == "__main__":
    loss_scale.INITIAL = 2.0**24
    with ranks() as rank:
        for overrides in sys.argv[1:]:
            config = load_config(None, json.loads(overrides))
            encoded = encoded_shape(config)
            torch.manual_seed(0)
            batch = random_batch(config.training.batch_size, encoded)
            engine = fresh_engine(config, encoded)
            taken, left_out = [], 0
            while len(taken) < NUM_TAKEN:
                for loss in steps(engine, config, encoded, batch):
                    if engine.step_taken:
                        taken.append([loss, float(engine.gradient_norm)])
                    else:
                        left_out += 1
            if rank == 0:
                print(json.dumps([taken[:NUM_TAKEN], left_out, engine.counters()["loss_scale"]]), flush=True)
