"""Which weights of a model are trained: all, some by their names, or adapters beside them."""

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn

from video_dit.config import Config
from video_dit.errors import UserError


def choose_trained(model: nn.Module, config: Config) -> None:
    """Adds the adapters of [lora], and lets gradients come to the weights that are trained, alone.

    Args:
        model: with its initial weights.
        config: its [lora], `training.train_only` and `training.freeze`.

    Raises:
        UserError: a pattern matches nothing, or nothing is left to train.
    """
    training, lora = config.training, config.lora
    names = [name for name, _ in named_weights(model)]
    trained = matching(names, training.train_only, "training.train_only")
    if not training.train_only and lora.rank == 0:
        trained = set(names)
    trained -= matching(names, training.freeze, "training.freeze")
    if lora.rank > 0:
        from video_dit.models.adapters import add_adapters  # here, as PEFT takes long to import

        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        add_adapters(model, sorted(matching(linear, lora.target_modules, "lora.target_modules")), lora)
    elif not trained:
        raise UserError("training.freeze and training.train_only leave no weight to train: freeze less")
    frozen = set(names) - trained
    for name, parameter in named_weights(model):
        parameter.requires_grad_(name not in frozen)


def named_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Those of a model by the names that they have without adapters, and the adapters' as LAYER.lora_A.weight."""
    for name, parameter in model.named_parameters():
        yield name.replace(".base_layer.", ".").replace(".default.", "."), parameter


def trained_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def frozen_weights(model: nn.Module) -> dict[str, Tensor]:
    """Those that are not trained, by their names; they are the model's own."""
    return {name: weight.data for name, weight in named_weights(model) if not weight.requires_grad}


class ParameterCounts(NamedTuple):
    """How many numbers each weight of a model has, and each of those that are trained."""

    of_weights: tuple[int, ...]
    of_trained: tuple[int, ...]

    @property
    def all(self) -> int:
        return sum(self.of_weights)

    @property
    def trained(self) -> int:
        return sum(self.of_trained)

    def __str__(self) -> str:
        millions = f"{self.all / 1e6:.1f} M parameters"
        return millions if self.trained == self.all else f"{millions}, {self.trained / 1e6:.3g} M of them trained,"


def parameter_counts(model: nn.Module) -> ParameterCounts:
    return ParameterCounts(
        tuple(weight.numel() for weight in model.parameters()), tuple(weight.numel() for weight in trained_of(model))
    )


def matching(names: Collection[str], patterns: Sequence[str], key: str) -> set[str]:
    """The names that any of the patterns, such as "backbone.*.bias", matches.

    Raises:
        UserError: one matches none; `key` is where it is from.
    """
    found = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            near = get_close_matches(pattern, names, n=3, cutoff=0) or sorted(names)[:3]
            raise UserError(f"{key} has {pattern!r}, which matches none; names near it are {', '.join(near)}")
        found |= matched
    return found
