"""Makes the built-in data set: captioned H.264 clips of moving shapes, with a manifest."""

import argparse
from pathlib import Path

from command_line import positive_int, progress_bar, run_program

from data.shapes_dataset.make import make_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the clips and manifest.jsonl")
    parser.add_argument(
        "--clips-per-combination", type=positive_int, default=24, help="training clips of each (default 24)"
    )
    parser.add_argument("--frames", type=positive_int, default=16, help="frames per clip, at 8 per second (default 16)")
    parser.add_argument("--size", type=positive_int, default=64, help="height and width in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="of sizes, places, speeds and backgrounds (default 0)")
    args = parser.parse_intermixed_args()

    manifest = make_clips(
        args.out,
        args.clips_per_combination,
        args.frames,
        args.size,
        args.seed,
        lambda plans: progress_bar(plans, unit="clip", label="rendering"),
    )
    print(f"{manifest}: {sum(1 for _ in manifest.open())} clips")


if __name__ == "__main__":
    run_program(main)
