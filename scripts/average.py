"""Makes the average of a run's weights with any width, from the snapshots that training.ema_widths has left."""

import argparse
from pathlib import Path

from command_line import positive_float, positive_int, run_program

from video_dit.errors import UserError
from video_dit.models.weights import write_weights
from video_dit.run_folder import RunFolder
from video_dit.training.power_average import combine, fit, snapshots_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, made by scripts/train.py")
    parser.add_argument(
        "--width", type=positive_float, required=True,
        help="the deviation of the steps that the average weighs, as a share of all steps; best between two of "
        "training.ema_widths",
    )  # fmt: skip
    parser.add_argument("--step", type=positive_int, help="after which step; that of the newest snapshots if not given")
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file, for --weights of generate.py and export.py"
    )
    args = parser.parse_args()

    if args.out.exists():
        raise UserError(f"{args.out} exists: give another --out")
    snapshots = snapshots_of(RunFolder(args.run), args.step)
    step = snapshots[-1].step
    found = fit(snapshots, step, args.width)
    weights = combine(snapshots, found.factors)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kind = f"average of width {args.width:g}, from {len(snapshots)} snapshots"
    write_weights(weights, args.out, {"step": str(step), "weights": kind})
    print(
        f"after step {step}, from {len(snapshots)} snapshots; their profile misses {found.error:.2%} of the wanted one"
    )
    print(args.out)


if __name__ == "__main__":
    run_program(main)
