"""Real weights that are no package, where the folder of assets is."""

from pathlib import Path

import diffusers
import pytest
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def taesd3(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TAESD3 (madebyollin, MIT) as diffusers keeps it, which does not count the clamp among the decoder's layers."""
    weights = {}
    for half, first in (("encoder", 0), ("decoder", 1)):
        for name, tensor in load_file(assets / f"weights/taesd3_{half}.safetensors").items():
            index, _, rest = name.partition(".")
            weights[f"{half}.layers.{int(index) - first}.{rest}"] = tensor.float()
    model = diffusers.AutoencoderTiny(latent_channels=16)
    model.load_state_dict(weights)
    folder = tmp_path_factory.mktemp("taesd3")
    model.save_pretrained(folder)
    return folder
