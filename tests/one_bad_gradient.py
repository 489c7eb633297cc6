"""As a program, on several ranks: a step in which the gradient of one weight alone is not finite.

The arguments are lists of overrides, as JSON, one for each run. Rank 0 prints for each, as JSON, whether the step was
taken and which pieces of any rank it has changed.
"""

import json
import math
import sys

import torch
from losses_of_steps import Run, steps

from video_dit.models.trained import named_weights
from video_dit.training.engine import ranks

BAD = "backbone.blocks.0.video.feed_forward.linear_in.weight"

if __name__ == "__main__":
    with ranks() as rank:
        for overrides in sys.argv[1:]:
            run = Run.of(overrides)
            engine = run.engine
            weight = dict(named_weights(engine.model.module))[BAD]
            list(steps(*run, num_steps=2))
            before = engine.copy_of_pieces()
            weight.register_hook(lambda gradient: gradient * math.nan)
            list(steps(*run, num_steps=1))
            after = engine.copy_of_pieces()
            changed = [str(name) for name, values in before.items() if not torch.equal(values, after[name])]
            of_ranks = engine.of_all_ranks(changed)
            if rank == 0:
                print(json.dumps([engine.step_taken, sorted({name for of_rank in of_ranks for name in of_rank})]))
