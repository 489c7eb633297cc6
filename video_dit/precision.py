"""Number formats by the names that configs have for them."""

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str, keep_weights: bool = True) -> torch.autocast:
    """Products in this precision, and all else as it is; nothing changes under fp32.

    Args:
        device: where they are computed.
        precision: a name of `DTYPES`.
        keep_weights: whether each weight, once it has been rounded, is kept so until all is computed.
    """
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=keep_weights)


def no_autocast(x: Tensor) -> torch.autocast:
    """For a norm of x, whose kernels sum in fp32 by themselves.

    On GPUs autocast would have it compute in fp32, which keeps a copy of x in fp32 for the backward pass.
    """
    return torch.autocast(x.device.type, enabled=False)
