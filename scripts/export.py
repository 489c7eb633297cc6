"""Makes one folder of a run: weights as safetensors, config and a model card, which generate.py reads as a run."""

import argparse
from pathlib import Path
from typing import get_args

from command_line import positive_int, run_program

from video_dit.config import Precision
from video_dit.run_folder import RunFolder
from video_dit.training.export import export_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, made by scripts/train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, which must not exist")
    parser.add_argument(
        "--weights",
        type=lambda text: text if text in ("averaged", "raw") else Path(text),
        default="averaged",
        metavar="averaged|raw|FILE",
        help="averaged (the default); raw: those that training goes on with; or a safetensors file, such as "
        "scripts/average.py writes",
    )
    parser.add_argument("--step", type=positive_int, help="of the checkpoint; the newest if not given")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="fp32", help="of the weights (default fp32)"
    )
    parser.add_argument(
        "--lora",
        choices=("merged", "separate"),
        default="merged",
        help="adapters become part of the weights (the default), or stay beside them as adapter_model.safetensors and "
        "adapter_config.json, which PEFT reads; generate.py reads either",
    )
    args = parser.parse_args()

    export_run(RunFolder(args.run), args.out, args.weights, args.step, args.precision, args.lora)
    print(args.out)


if __name__ == "__main__":
    run_program(main)
