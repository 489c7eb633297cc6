"""Files of weights, and whether they are those of a model."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from video_dit.errors import UserError


def read_weights(file: Path, named_by: str) -> dict[str, Tensor]:
    """The weights of a safetensors file.

    Args:
        file: its path.
        named_by: the key or option that named it, for the message.

    Raises:
        UserError: it is not there, or no safetensors file.
    """
    if not file.is_file():
        raise UserError(f"{file} ({named_by}) does not exist: name a safetensors file, or leave {named_by} out")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} ({named_by}) is not a safetensors file: {error}") from error


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], said: str) -> None:
    """
    Args:
        found: weights that were given; `said` is what they are to the user.
        expected: those of the model, of which names and shapes are compared.

    Raises:
        UserError: they are of another model.
    """
    if misfits := differing_weights(expected, found):
        raise UserError(
            f"{said} is of another model: {len(misfits)} weights differ in name or shape, such as {min(misfits)}: "
            "use the [model], [autoencoder] and [text_encoder] that it was made with"
        )


def differing_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> set[str]:
    """The names that only one of two sets of weights has, or under which their shapes differ."""
    return (a.keys() ^ b.keys()) | {name for name in a.keys() & b.keys() if a[name].shape != b[name].shape}
