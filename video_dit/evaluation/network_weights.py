"""Networks that measure, with their weights from a file."""

from pathlib import Path
from typing import TypeVar

from torch import nn

from video_dit.errors import UserError
from video_dit.models.weights import differing_weights, read_weights

Network = TypeVar("Network", bound=nn.Module)


def load_network(network: Network, file: Path, named_by: str, made_by: str) -> Network:
    """The network with the weights of a safetensors file, in fp32 whatever they are in the file, and not to be trained.

    Args:
        network: on the CPU, or on "meta".
        file: its path.
        named_by: the key or option that named it, for messages.
        made_by: the command that makes such a file, for messages.

    Raises:
        UserError: there is no such file, or it has other weights.
    """
    weights = read_weights(file, named_by)
    if misfits := differing_weights(network.state_dict(), weights):
        raise UserError(
            f"{file} ({named_by}) has not the weights of {type(network).__name__}: {len(misfits)} differ in name or "
            f"shape, such as {min(misfits)}: make the file with '{made_by}'"
        )
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)
