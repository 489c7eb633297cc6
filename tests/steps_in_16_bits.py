"""As a program, on one rank or several: steps, whose scale of the loss under fp16 is too large at first.

The arguments are lists of overrides, as JSON, one for each run. Rank 0 prints a JSON line for each: the loss and the
gradient's norm of the first steps that were taken, how many were left out, the state of the scale, and the norms of
what the optimizer keeps.
"""

import json
import math
import sys
from collections import ChainMap, defaultdict

from losses_of_steps import Run, steps

from video_dit.training import loss_scale
from video_dit.training.engine import Engine, ranks

NUM_TAKEN = 6


def norms_of_state(engine: Engine) -> dict[str, float]:
    """On rank 0, over all weights, of each kind that a checkpoint holds; what two ranks hold counts once."""
    mine = {str(name): float(values.square().sum()) for name, values in engine.copy_of_pieces().items()}
    norms: dict[str, float] = defaultdict(float)
    for name, square in ChainMap({}, *engine.of_all_ranks(mine)).items():
        norms[name.partition("/")[0]] += square
    return {kind: math.sqrt(square) for kind, square in norms.items()}


if __name__ == "__main__":
    loss_scale.INITIAL = 2.0**24
    with ranks() as rank:
        for overrides in sys.argv[1:]:
            run = Run.of(overrides)
            engine = run.engine
            taken, left_out = [], 0
            while len(taken) < NUM_TAKEN:
                (loss,) = steps(*run, num_steps=1)
                if engine.step_taken:
                    taken.append([loss, float(engine.gradient_norm)])
                else:
                    left_out += 1
            list(steps(*run, num_steps=1, withhold=True))  # which is no matter of the scale
            kept = norms_of_state(engine)
            if rank == 0:
                print(json.dumps([taken, left_out, engine.counters()["loss_scale"], kept]), flush=True)
