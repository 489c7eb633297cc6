"""Turns a folder of videos, a manifest or WebDataset tars into shards of encoded clips to train on.

The same command again goes on where an earlier one was stopped; with --overwrite and other settings, only what depends
on them is done again.
"""

import argparse
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from command_line import CONFIG_HELP, count_or_zero, positive_float, run_program
from preprocess_jobs import TIME_LIMIT, default_workers, encoder_source, show_progress, this_command

from data.dataset_info import Holds
from data.engine import Engine, InProcess, cluster_engine, local_engine
from data.output import output_folder
from data.preprocess import RESULTS, explain, preprocess
from video_dit.config import load_config
from video_dit.errors import UserError


def main() -> None:
    args = arguments()
    config = load_config(args.config, args.overrides)
    encoders = encoder_source(config)
    if args.explain:
        with tempfile.TemporaryDirectory(prefix="video-dit-") as folder:
            results = output_folder(f"{args.out}/{RESULTS}" if args.out else folder)
            print(explain(args.source, config, encoders, engine_of(args), results, show_progress))
        return
    if args.out is None:
        raise UserError("--out is missing: name a folder for the shards, or give --explain")
    holds: Holds = "videos" if args.keep_videos else "latents"
    outcome = preprocess(
        args.source, args.out, config, encoders, engine_of(args), args.overwrite, holds, show_progress, this_command()
    )
    print(outcome or "these videos have been preprocessed already, with the same settings")
    print(f"shards: {args.out} (what became of each video and clip: {args.out}/report.html)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "source",
        help="a folder, a manifest (.jsonl, .csv, .parquet) or a .tar; a path, or a URL that fsspec reads (s3://, gs://)",
    )
    add("--out", help="folder for the shards, not that of the source; a path, or a URL that fsspec writes")
    add("--config", type=Path, help="TOML file; its tables from [data] to [text_encoder] are read")
    add("--explain", action="store_true", help="only say how many clips of which shapes there would be, by the headers")
    add(
        "--keep-videos", action="store_true",
        help="keep the places of the clips in their videos, from which training decodes them, in place of latents",
    )  # fmt: skip
    add(
        "--overwrite", action="store_true",
        help="replace shards made from other videos or settings; what was removed from OUT/work is done again as well",
    )  # fmt: skip
    add(
        "--workers", type=count_or_zero, default=default_workers(),
        help="processes on this machine (default: %(default)s, one for each core, or GPU); 0: none but this one, in "
        "which nothing stops a video that hangs",
    )  # fmt: skip
    add("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, whose workers are used in place of --workers")
    add(
        "--time-limit", type=positive_float, default=TIME_LIMIT, metavar="SECONDS",
        help="for a video in each stage, besides as many seconds as it lasts (default: %(default)g); one that takes "
        "longer is dropped",
    )  # fmt: skip
    add("overrides", nargs="*", metavar="table.key=value", help="override a key of the config")
    return parser.parse_intermixed_args()


def engine_of(args: argparse.Namespace) -> AbstractContextManager[Engine]:
    if args.scheduler:
        return cluster_engine(args.scheduler, args.time_limit)
    if args.workers:
        return local_engine(args.workers, args.time_limit, torch.cuda.device_count())
    return nullcontext(InProcess())


if __name__ == "__main__":
    run_program(main)
