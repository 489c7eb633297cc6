"""Learning rate and averaging by step."""

import math

from video_dit.config import TrainingConfig


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """The share of the peak learning rate in the step after `step` others.

    A linear warm-up, then all of it ("constant"), half a cosine to zero ("cosine"), or all of it until the last
    `decay_fraction` of the steps, over which it goes to zero linearly ("wsd", for warm-up, stable, decay).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "wsd":
        return min(1.0, (config.steps - step) / max(1.0, config.decay_fraction * config.steps))
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(step: int, config: TrainingConfig) -> float:
    """How much of the average the step keeps; less at first, so that the initial weights are soon forgotten."""
    return min(config.ema_decay, (1 + step) / (10 + step))
