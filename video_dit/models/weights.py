"""Files of weights, whether they are those of a model, and how parts of them make it whole."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_dit.config import LoraConfig
from video_dit.errors import UserError
from video_dit.files import sync

PEFT_PREFIX = "base_model.model."
"""Of every name in PEFT's files."""
_A, _B = ".lora_A.weight", ".lora_B.weight"


def read_weights(file: Path, named_by: str) -> dict[str, Tensor]:
    """The weights of a safetensors file; adapters as PEFT writes them are under LAYER.lora_A.weight.

    Args:
        file: its path.
        named_by: the key or option that named it, for the message.

    Raises:
        UserError: it is not there, or no safetensors file.
    """
    if not file.is_file():
        raise UserError(f"{file} ({named_by}) does not exist: name a safetensors file, or leave {named_by} out")
    try:
        return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise UserError(f"{file} ({named_by}) is not a safetensors file: {error}") from error


@contextmanager
def os_errors(file: Path) -> Iterator[None]:
    """
    Raises:
        OSError: safetensors cannot read or write the file, which it does not name.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(file)) from error


def write_weights(weights: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, which is whole and on the disk before it has its name.

    Others may read it as they may the files beside it; safetensors makes it private.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.touch()
    mode = unfinished.stat().st_mode
    with os_errors(file):
        save_file(weights, unfinished, metadata=metadata)
    unfinished.chmod(mode)
    sync(unfinished)
    unfinished.rename(file)


def read_parts(file: Path, frozen: Path, named_by: str) -> dict[str, Tensor]:
    """What a run has trained, with what it has not.

    Args:
        file: weights that were trained, or all.
        frozen: those that were not, where there are some; see `RunFolder.frozen_weights`.
        named_by: see `read_weights`.

    Raises:
        UserError: as `read_weights`.
    """
    found = read_weights(file, named_by)
    return found if frozen == file else with_frozen(found, frozen, named_by)


def with_frozen(trained: dict[str, Tensor], frozen: Path, named_by: str) -> dict[str, Tensor]:
    """Weights that were trained, with those of the file, where there is one; see `read_parts`."""
    return {**read_weights(frozen, named_by), **trained} if frozen.exists() else trained


def split_adapters(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those that are no adapters, and the adapters."""
    adapters = {name: tensor for name, tensor in weights.items() if name.endswith((_A, _B))}
    return {name: tensor for name, tensor in weights.items() if name not in adapters}, adapters


def adapted_layers(adapters: Mapping[str, Tensor]) -> list[str]:
    """The names of the layers that adapters are beside."""
    return sorted(name.removesuffix(_B) for name in adapters if name.endswith(_B))


def merge_adapters(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Weights without adapters that do what they did with them: W + alpha / rank B A, in fp32.

    Raises:
        UserError: an adapter is not that of a layer.
    """
    merged, adapters = split_adapters(weights)
    for layer in adapted_layers(adapters):
        name, a, b = f"{layer}.weight", adapters.get(layer + _A), adapters[layer + _B]
        if a is None or name not in merged or merged[name].shape != (b.shape[0], a.shape[1]):
            raise UserError(f"there is an adapter of {layer} that fits no such layer: it was made for another model")
        merged[name] = merged[name].float() + config.scale * (b.float() @ a.float())
    return merged


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
