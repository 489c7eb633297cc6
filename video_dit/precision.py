"""Number formats by the names that configs have for them."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Products in this precision, and all else as it is; nothing changes under fp32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
