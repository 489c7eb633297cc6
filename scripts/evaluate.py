"""Measures a run on the built-in shapes: the share of generated clips that an oracle reads as their prompt asked."""

import argparse
import json
from pathlib import Path

from command_line import positive_int, progress_bar, run_program
from shapes_score import score

from data.shapes_dataset.make import held_out_attributes, seen_attributes
from data.shapes_dataset.render import ALL_ATTRIBUTES
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder
from video_dit.sampling.pipeline import VideoPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder, trained on moving shapes")
    parser.add_argument(
        "--clips", type=positive_int, default=120, help="clips of each kind, seen and held out (default 120)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; the next has the next (default 0)")
    parser.add_argument("--batch-size", type=positive_int, default=30, help="clips computed together (default 30)")
    args = parser.parse_intermixed_args()

    run = RunFolder(args.run)
    pipeline = VideoPipeline.from_run(args.run)
    known = {attributes.caption for attributes in ALL_ATTRIBUTES}
    if not known & set(run.example_prompts.read_text(encoding="utf-8").splitlines()):
        raise UserError(f"{args.run} was not trained on moving shapes, and the oracle reads nothing else")

    data = pipeline.config.data
    if data.height != data.width:
        raise UserError(f"{args.run} makes clips of {data.height} x {data.width}: the oracle reads squares")
    results = {}
    kinds = {"seen": seen_attributes(), "held_out": held_out_attributes()}
    total = len(kinds) * args.clips * pipeline.config.sampling.num_steps
    with progress_bar(total=total, unit="step", label="generating") as bar:
        for kind, combinations in kinds.items():
            asked = [combinations[index % len(combinations)] for index in range(args.clips)]
            seeds = [args.seed + index for index in range(args.clips)]
            prompts = [attributes.caption for attributes in asked]
            clips = pipeline(prompts, seeds, batch_size=args.batch_size, on_step=bar.update).numpy()
            results[kind] = score(asked, clips)

    write_atomically(run.evaluation, json.dumps(results, indent=2) + "\n")
    print(table(results))
    print(run.evaluation)


def table(results: dict[str, dict[str, object]]) -> str:
    lines = [
        f"{'prompts':10}{'clips':>6}{'as asked':>10}{'95% interval':>18}{'colour':>9}{'shape':>9}{'direction':>11}"
    ]
    for kind, row in results.items():
        low, high = row["interval"]  # type: ignore[misc]
        lines.append(
            f"{kind:10}{row['clips']:>6}{row['all']:>10.1%}{f'{low:.1%} to {high:.1%}':>18}"
            f"{row['colour']:>9.1%}{row['shape']:>9.1%}{row['direction']:>11.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
