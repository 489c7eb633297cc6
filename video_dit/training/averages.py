"""The exponential moving average of the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor


class AveragedWeights:
    """Averages, in fp32, what one rank holds of each parameter, so that no weight is gathered to take a step."""

    def __init__(self, shards: Mapping[str, Tensor]) -> None:
        self.shards = {name: shard.detach().float().clone() for name, shard in shards.items()}

    @torch.no_grad()
    def update(self, shards: Mapping[str, Tensor], decay: float) -> None:
        """average <- decay average + (1 - decay) weights."""
        torch._foreach_lerp_(list(self.shards.values()), [shards[name].float() for name in self.shards], 1 - decay)
