"""Trains a model on shards or on videos, under the deepspeed launcher; the same command again resumes."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from command_line import CONFIG_HELP, progress_bar, run_program, share
from torch import Tensor
from training_plan import show_plan
from training_samples import sample_source

from data.dataset import ClipDataset, load_batches, load_once, lost_readers_told
from data.dataset_info import DatasetInfo, verify
from data.on_the_fly import FrameBatch, OnTheFly
from data.order import Schedule, batch_multiples, micro_batch_positions
from video_dit.config import Config, load_config
from video_dit.contracts import Batch
from video_dit.encoders import build_autoencoder
from video_dit.encoders.fingerprint import check_encoders
from video_dit.errors import UserError
from video_dit.models import VideoDiT, build_model
from video_dit.run_folder import RunFolder, TrainingData
from video_dit.shapes import token_grid
from video_dit.training.agreement import Facts, agree, code_facts, config_facts, on_first_rank
from video_dit.training.checkpoint import prepare_weights, save_frozen_weights
from video_dit.training.deepspeed_config import check_device, deepspeed_config
from video_dit.training.engine import lost_ranks_told, ranks, shared_store, world_size
from video_dit.training.loop import BatchSource, ValidationSource, train

CODE = [Path(__file__).resolve().parent.parent / folder for folder in ("video_dit", "data", "scripts")]


def main() -> None:
    args = arguments()
    if args.plan:
        show_plan(args)
        return
    check_config(args)
    with ranks() as rank, lost_ranks_told(rank), lost_readers_told(rank):
        shards = folder_of_shards(args, rank)
        config, data, dataset, held_out, not_compared = agree(
            partial(inputs, args, shards), shared_store(), rank, world_size()
        )
        info = dataset.info
        folders = [shards, *([args.validation] if args.validation else [])]
        if args.verify and rank == 0:
            verify_all(folders)
        run = RunFolder(args.run)
        encode = batch_encoder(config, dataset, held_out)
        torch.manual_seed(config.seed)
        model = build_model(config, info.encoded)
        tokens = [token_grid(bucket.latents, config.model.patch_size) for bucket in dataset.buckets]
        for grid in tokens:
            model.position_embedding.check_fits(grid)
        sizes = [grid.size + info.encoded.text_length for grid in tokens]
        multiples = batch_multiples(sizes, config.training.batch_by_tokens)
        prepare_weights(model, config, run)
        if shards == args.data:  # for videos `keep` has taken the run
            on_first_rank(run.take, "lock", shared_store(), rank, world_size())
        start = partial(open_run, run, config, data, dataset, model, sizes, multiples)
        on_first_rank(start, "run", shared_store(), rank, world_size())
        if rank == 0:
            for told in not_compared:
                print(told)
        train(
            config, model, dataset.empty_prompt(), dataset.text_segments(),
            training_batches(config, dataset, multiples, encode),
            held_out and held_out_batches(config, held_out, encode),
            sample_source(config, data, run), run,
        )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="TOML file; what it does not say has its default")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of shards, made by scripts/preprocess.py; or "
        "videos, as it takes them, which are then decoded while training runs (its tables of the config are read, and "
        "RUN/data says what became of each video)",
    )
    parser.add_argument(
        "--validation", type=Path, help="folder of shards that are not trained on, to measure the loss on"
    )
    parser.add_argument("--run", type=Path, help="folder for the run; resumed if it exists")
    parser.add_argument("--verify", action="store_true", help="first compare all shards with their checksums")
    parser.add_argument(
        "--plan",
        action="store_true",
        help="train nothing: say how many parameters, operations and bytes a step needs, whether that fits, and what "
        "would make it fit; needs shards, no launcher and no run",
    )
    parser.add_argument(
        "--gpus", metavar="64xH100-80GB", help="devices for --plan; without it those of this machine, one for each rank"
    )
    parser.add_argument(
        "--utilisation",
        type=share,
        default=0.4,
        help="for --plan: share of the devices' peak that a step is expected to reach (default 0.4)",
    )
    parser.add_argument("overrides", nargs="*", metavar="table.key=value", help="override a key of the config")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    args = parser.parse_intermixed_args()
    if args.run is None and not args.plan:
        parser.error("the following arguments are required: --run")
    if args.gpus is not None and not args.plan:
        parser.error("--gpus is for --plan; training takes the devices that the launcher gives")
    return args


def holds_shards(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()


def check_config(args: argparse.Namespace) -> None:
    """Before this rank joins the others, as it would have to wait for them.

    Raises:
        UserError: the config has a mistake, or what it asks for cannot be done together or on this machine.
    """
    tables = DatasetInfo.read(args.data).tables if holds_shards(args.data) else {}
    config = load_config(args.config, args.overrides, fixed=tables)
    deepspeed_config(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_device(config.training, torch.cuda.is_available())


class Inputs(NamedTuple):
    """not_compared: what to tell the user of encoders whose files are not here."""

    config: Config
    data: TrainingData
    dataset: ClipDataset
    held_out: ClipDataset | None
    not_compared: list[str]


def inputs(args: argparse.Namespace, shards: Path) -> tuple[Inputs, Facts]:
    """What training reads, and what all ranks must have alike.

    Raises:
        UserError: it cannot be read, or does not fit together, or the run was started with something that must stay.
    """
    info = DatasetInfo.read(shards)
    config = load_config(args.config, args.overrides, fixed=info.tables)
    not_compared = check_encoders(config, info.fingerprints, str(shards))
    dataset = ClipDataset(shards, config.seed)
    held_out = ClipDataset(args.validation, seed=0) if args.validation else None
    if held_out is not None:
        held_out.info.check_goes_with(info, args.validation, shards)
    shapes = zip((bucket.pixels for bucket in dataset.buckets), dataset.counts, strict=True)
    data = TrainingData(info.inputs, info.fingerprints, info.encoded.grid, tuple(shapes))
    RunFolder(args.run).changes(config, data)  # what must stay is told before anything is made of the rest
    facts = {**config_facts(config), **code_facts(CODE)}
    for name, clips in {"--data": dataset, "--validation": held_out}.items():
        facts[f"shapes of clips in {name}"] = clips and {bucket.name: bucket.latents for bucket in clips.buckets}
        facts[f"clips in {name}"] = clips and clips.info.inputs
    return Inputs(config, data, dataset, held_out, not_compared), facts


def folder_of_shards(args: argparse.Namespace, rank: int) -> Path:
    """The data; of videos, shards that hold their places, which the first rank makes in the run's folder.

    Raises:
        UserError: the videos cannot be used.
    """
    if holds_shards(args.data):
        return args.data
    folder = args.run / "data"
    on_first_rank(partial(keep, args, folder), "videos", shared_store(), rank, world_size())
    return folder


def keep(args: argparse.Namespace, folder: Path) -> None:
    """
    Raises:
        UserError: the videos cannot be used, or the run is trained already.
    """
    from preprocess_jobs import keep_videos  # here, as Dask takes long to import and shards need none

    config = load_config(args.config, args.overrides)
    RunFolder(args.run).take()
    try:
        keep_videos(args.data, folder, config)
    except UserError as error:
        raise UserError(
            f"{args.data} holds no shards (it has no dataset.json): make them with scripts/preprocess.py. It cannot be "
            f"used as videos either: {error}"
        ) from error


def open_run(
    run: RunFolder,
    config: Config,
    data: TrainingData,
    dataset: ClipDataset,
    model: VideoDiT,
    sizes: Sequence[int],
    multiples: Sequence[int],
) -> None:
    """Makes the folder, or goes on in it, and says with what and what has changed.

    Args:
        sizes: of clips of each shape in tokens.
        multiples: of batch_size that their batches are.

    Raises:
        UserError: the run was started with something that must stay.
    """
    changes = run.open(config, data, dataset.example_prompts())
    if run.latest_checkpoint() is None:
        save_frozen_weights(model, run)
    describe(dataset, sizes, [config.training.batch_size * multiple for multiple in multiples])
    for change in changes:
        print(f"changed since this run began: {change}")


Encode = Callable[[Batch | FrameBatch], Batch]


def batch_encoder(config: Config, *datasets: ClipDataset | None) -> Encode:
    """What gives frames their latents; the autoencoder is loaded if there are any. Latents pass.

    Raises:
        UserError: the autoencoder is not there.
    """
    if all(dataset is None or dataset.info.holds == "latents" for dataset in datasets):
        return lambda batch: batch
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = build_autoencoder(config.autoencoder, device)
    return OnTheFly(autoencoder, device, lambda told: print(told, file=sys.stderr, flush=True)).encode


def describe(dataset: ClipDataset, sizes: Sequence[int], batch_sizes: Sequence[int]) -> None:
    """A line for each shape, whose clips have so many tokens, and whose batches so many clips."""
    print(f"{dataset.folder}: {len(dataset):,} clips")
    for bucket, number, size, of_step in zip(dataset.buckets, dataset.counts, sizes, batch_sizes, strict=True):
        again = "; a step shows some of them more than once" if number < of_step else ""
        print(f"  {number:,} of {bucket.name} pixels: {size} tokens each, {of_step} in a step{again}")


def training_batches(config: Config, dataset: ClipDataset, multiples: Sequence[int], encode: Encode) -> BatchSource:
    weights = [config.training.image_weight if bucket.pixels.frames == 1 else 1.0 for bucket in dataset.buckets]
    schedule = Schedule(dataset.counts, config.seed, multiples, weights)

    def batches(rank: int, num_ranks: int, micro_batch_size: int, first_step: int) -> Iterator[Batch]:
        batch_size = config.training.batch_size
        positions = micro_batch_positions(schedule, rank, num_ranks, micro_batch_size, batch_size, first_step)
        return map(encode, load_batches(dataset, positions, config.training.num_workers))

    return batches


def held_out_batches(config: Config, dataset: ClipDataset, encode: Encode) -> ValidationSource:
    def batches(rank: int, num_ranks: int, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
        clips = load_once(dataset, config.training.validation_clips, rank, num_ranks, batch_size)
        return ((encode(batch), counted) for batch, counted in clips)

    return batches


def verify_all(folders: list[Path]) -> None:
    """
    Raises:
        UserError: a shard is not as it was written.
    """
    for folder in folders:
        problems = verify(folder, lambda names: progress_bar(names, unit="shard", label="verifying"))
        if problems:
            raise UserError("\n".join([*problems, f"fetch {folder} again, or delete these files and preprocess again"]))


if __name__ == "__main__":
    run_program(main)
