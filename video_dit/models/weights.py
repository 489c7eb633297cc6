"""Whether weights are those of a model."""

from collections.abc import Mapping

from torch import Tensor


def differing_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> set[str]:
    """The names that only one of two sets of weights has, or under which their shapes differ."""
    return (a.keys() ^ b.keys()) | {name for name in a.keys() & b.keys() if a[name].shape != b[name].shape}
