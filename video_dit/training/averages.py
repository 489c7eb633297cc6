"""Averages of the weights, kept while training goes on."""

from collections.abc import Mapping

import torch
from torch import Tensor

from video_dit.config import TrainingConfig
from video_dit.training.power_average import power_decay, power_name
from video_dit.training.schedule import ema_decay


class AveragedWeights:
    """The averages of a run: average <- decay average + (1 - decay) weights, each with its own decay by step.

    In fp32, of what one rank holds of each parameter, so that no weight is gathered to take a step.

    Args:
        shards: the weights that the run starts with.
        config: says which averages are kept.

    Attributes:
        by_name: what this rank holds of each average, under the name of its file: "ema" and the `power_names`.
        power_names: of the power-function averages.
    """

    def __init__(self, shards: Mapping[str, Tensor], config: TrainingConfig) -> None:
        self._config = config
        self.power_names = [power_name(width) for width in config.ema_widths]
        self.by_name = {
            name: {key: shard.detach().float().clone() for key, shard in shards.items()}
            for name in ("ema", *self.power_names)
        }

    @torch.no_grad()
    def update(self, shards: Mapping[str, Tensor], step: int) -> None:
        """Takes in the weights that the step after `step` others has made."""
        decays = {"ema": ema_decay(step, self._config)}
        decays |= {power_name(width): power_decay(step, width) for width in self._config.ema_widths}
        for name, decay in decays.items():
            average = self.by_name[name]
            torch._foreach_lerp_(list(average.values()), [shards[key].float() for key in average], 1 - decay)
