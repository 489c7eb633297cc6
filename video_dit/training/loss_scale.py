"""The scale of the loss under fp16."""

from collections.abc import Mapping
from typing import Any

INITIAL = 2.0**16
GROWS_AFTER = 2000
"""Steps in a row; this and the factors are those of PyTorch's `GradScaler`."""


class LossScale:
    """What the loss is multiplied by, and its gradients divided, so that small ones are not rounded to zero.

    As in Micikevicius et al. 2018 (arXiv 1710.03740, section 3.2): halved by a step whose gradient is not finite, and
    doubled after many that were.

    Attributes:
        value: of the next step; 1 at least, where a gradient that is not finite has other reasons.
    """

    def __init__(self) -> None:
        self.value = INITIAL
        self._finite_in_a_row = 0

    def update(self, is_finite: bool) -> None:
        """After a step: whether its gradient was finite."""
        self._finite_in_a_row = self._finite_in_a_row + 1 if is_finite else 0
        if not is_finite:
            self.value = max(1.0, self.value / 2)
        elif self._finite_in_a_row == GROWS_AFTER:
            self.value *= 2
            self._finite_in_a_row = 0

    def state(self) -> dict[str, Any]:
        """JSON."""
        return {"value": self.value, "finite_in_a_row": self._finite_in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        self.value, self._finite_in_a_row = state["value"], state["finite_in_a_row"]
