"""Turns a folder of videos, a manifest or WebDataset tars into shards of encoded clips to train on.

The same command again goes on where an earlier one was stopped; with --overwrite and other settings, only what depends
on them is done again.
"""

import argparse
import os
import shlex
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from command_line import CONFIG_HELP, positive_float, progress_bar, run_program

from data.engine import Engine, InProcess, cluster_engine, local_engine
from data.output import output_folder
from data.preprocess import RESULTS, explain, preprocess
from data.stages.encoding import EncoderSource
from video_dit.config import load_config
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.encoders.fingerprint import encoder_fingerprint
from video_dit.errors import UserError


def main() -> None:
    args = arguments()
    config = load_config(args.config, args.overrides)
    encoders = EncoderSource(
        build_autoencoder, build_text_encoder, encoder_fingerprint, config.autoencoder, config.text_encoder
    )
    if args.explain:
        with engine_of(args) as engine, tempfile.TemporaryDirectory(prefix="video-dit-") as folder:
            results = output_folder(f"{args.out}/{RESULTS}" if args.out else folder)
            print(explain(args.source, config, encoders, engine, results, show_progress))
        return
    if args.out is None:
        raise UserError("--out is missing: name a folder for the shards, or give --explain")
    command = shlex.join(["python", *sys.argv])
    with engine_of(args) as engine:
        outcome = preprocess(args.source, args.out, config, encoders, engine, args.overwrite, show_progress, command)
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
    add("--out", help="folder for the shards; a path, or a URL that fsspec writes")
    add("--config", type=Path, help="TOML file; its tables from [data] to [text_encoder] are read")
    add("--explain", action="store_true", help="only say how many clips of which shapes there would be, by the headers")
    add("--overwrite", action="store_true", help="replace shards made from other videos or settings")
    add(
        "--workers", type=int, default=default_workers(),
        help="processes on this machine (default: %(default)s, one for each core, or GPU); 0: none but this one, in "
        "which nothing stops a video that hangs",
    )  # fmt: skip
    add("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, whose workers are used in place of --workers")
    add(
        "--time-limit", type=positive_float, default=120.0, metavar="SECONDS",
        help="for a video in each stage, besides as many seconds as it lasts (default: %(default)g); one that takes "
        "longer is dropped",
    )  # fmt: skip
    add("overrides", nargs="*", metavar="table.key=value", help="override a key of the config")
    return parser.parse_intermixed_args()


def default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.cuda.device_count() or cores


def engine_of(args: argparse.Namespace) -> AbstractContextManager[Engine]:
    if args.scheduler:
        return cluster_engine(args.scheduler, args.time_limit)
    return local_engine(args.workers, args.time_limit) if args.workers else nullcontext(InProcess())


def show_progress(label: str, counted: str, total: int) -> AbstractContextManager:
    return progress_bar(total=total, unit=counted, label=label)


if __name__ == "__main__":
    run_program(main)
