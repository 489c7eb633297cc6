"""Turns a folder of videos, a manifest or WebDataset tars into shards of encoded clips to train on."""

import argparse
from pathlib import Path

import torch
from command_line import CONFIG_HELP, progress_bar, run_program

from data.preprocess import preprocess
from video_dit.config import load_config
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.encoders.fingerprint import encoder_fingerprints


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="a folder, a manifest (.jsonl, .csv, .parquet) or a .tar; a path, or a URL that fsspec reads (s3://, gs://)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--config", type=Path, help="TOML file; [data], [autoencoder] and [text_encoder] are read")
    parser.add_argument("--overwrite", action="store_true", help="replace shards made from other videos or settings")
    parser.add_argument("overrides", nargs="*", metavar="table.key=value", help="override a key of the config")
    args = parser.parse_intermixed_args()

    config = load_config(args.config, args.overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = preprocess(
        args.source,
        args.out,
        config,
        build_autoencoder(config.autoencoder, device),
        build_text_encoder(config.text_encoder, device),
        encoder_fingerprints(config),
        args.overwrite,
        lambda videos, count: progress_bar(videos, total=count, unit="video", label="preprocessing"),
    )
    print(report.summary() if report else "these videos have been preprocessed already, with the same settings")
    print(f"shards: {args.out} (what became of each video: {args.out / 'report.jsonl'})")


if __name__ == "__main__":
    run_program(main)
