"""Measures runs: prompts that an oracle reads in clips of the built-in shapes, and distances to held-out clips."""

import argparse
import json
from pathlib import Path

from command_line import positive_int, progress_bar, run_program
from comparison import compare
from shapes_score import score

from data.shapes_dataset.make import held_out_attributes, seen_attributes
from data.shapes_dataset.render import ALL_ATTRIBUTES
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder
from video_dit.sampling.pipeline import VideoPipeline

EPILOG = """the built-in shapes:
  Of a run that was trained on them, the share of clips that an oracle reads as their prompt asked, for combinations
  that were seen in training and for others; RUN/evaluation.json has it.

--references:
  The clips there that are of the runs' size, and must be of their frame rate, are shuffled always alike and taken in
  turns into two sets. To the prompts of the first each run makes clips, with the seeds from --seed on, which are
  compared with that set. The second set is compared with it too, and is what a perfect model would reach. In OUT,
  comparison.json and comparison.html have the measures, the runs' losses there by timestep, and clips side by side,
  of which comparison.png has some frames. Distances of sets depend on how many clips there are: compare those of the
  same number alone. Intervals are of 95 %, over the clips.

--training:
  "distance to training" is that of a clip to the nearest clip there: the root of the mean square over all pixels, in
  units of their range. A copy has 0; the other held-out clips say how near clips are that nobody has copied.

--probe:
  A linear classifier is fitted to the colours of the clips of --training whose captions hold one of the phrases, such
  as "with light skin tone" "with dark skin tone". The measure is the share of clips that it takes for what their
  prompts hold. Where prompts hold all phrases equally often, chance is one in as many as there are; the row of the
  other held-out clips says how well the classifier tells real clips.
"""


def main() -> None:
    args = arguments()
    for folder in map(RunFolder, args.run):  # what is missing of one is told before anything is computed
        folder.load_config()
        folder.load_data()
        folder.averaged_weights()
    of_shapes = [run for run in args.run if knows_shapes(RunFolder(run))]
    if args.references is None and len(of_shapes) < len(args.run):
        (other, *_) = set(args.run) - set(of_shapes)
        raise UserError(
            f"{other} was not trained on moving shapes, and the oracle reads nothing else: give --references"
        )
    for run in of_shapes:
        evaluate_shapes(run, args)
    if args.references is not None:
        compare(args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="run folders, or exported models")
    parser.add_argument("--clips", type=positive_int, default=120, help="clips of each kind or set (default 120)")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; the next has the next (default 0)")
    parser.add_argument("--batch-size", type=positive_int, default=30, help="clips computed together (default 30)")

    comparison = parser.add_argument_group("comparison with held-out clips")
    comparison.add_argument("--references", type=Path, help="folder of shards that no run was trained on")
    comparison.add_argument("--out", type=Path, help="folder for the measures, the page and the clips that it shows")
    comparison.add_argument("--training", type=Path, help="shards of training: finds the nearest of each clip")
    comparison.add_argument("--i3d", type=Path, help="weights for FVD; scripts/fetch_metric_weights.py gets them")
    comparison.add_argument(
        "--encoder", help="vision model of transformers for distances per frame, and to texts if it reads them, as CLIP"
    )
    comparison.add_argument(
        "--probe", nargs="+", metavar="PHRASE", help="of prompts, such as colours, that clips are probed for; see below"
    )
    args = parser.parse_args()
    if args.references is not None and args.out is None:
        parser.error("--references needs --out")
    for option in ("out", "training", "i3d", "encoder", "probe"):
        if args.references is None and getattr(args, option) is not None:
            parser.error(f"--{option} needs --references")
    if args.probe and args.training is None:
        parser.error("--probe needs --training, whose clips it is fitted to")
    if args.probe and len(args.probe) < 2:
        parser.error(f"--probe has the phrase {args.probe[0]!r} alone: give two or more to tell apart")
    if len({run.name for run in args.run}) < len(args.run):
        parser.error("--run has folders of the same name, which could not be told apart: rename one")
    return args


def knows_shapes(run: RunFolder) -> bool:
    known = {attributes.caption for attributes in ALL_ATTRIBUTES}
    prompts = run.example_prompts
    return prompts.exists() and bool(known & set(prompts.read_text(encoding="utf-8").splitlines()))


def evaluate_shapes(run: Path, args: argparse.Namespace) -> None:
    """
    Raises:
        UserError: the run makes clips that the oracle cannot read.
    """
    pipeline = VideoPipeline.from_run(run)
    data = pipeline.config.data
    if data.height != data.width:
        raise UserError(f"{run} makes clips of {data.height} x {data.width}: the oracle reads squares")
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
    file = RunFolder(run).evaluation
    made_with = {"weights": str(pipeline.weights_file.relative_to(run)), "seed": args.seed}
    write_atomically(file, json.dumps({**made_with, **results}, indent=2) + "\n")
    print(table(results), file, sep="\n")


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
