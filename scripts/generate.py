"""Generates a clip for each prompt with a trained run: MP4 files, and a contact sheet of the first 64."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from clip_jobs import Job, batches_of, plan_jobs, run_jobs
from command_line import positive_float, positive_int, progress_bar, run_program, show_warnings
from numpy.typing import NDArray

from data.video import write_mp4
from video_dit.config import Autocast, Solver, load_config
from video_dit.errors import UserError
from video_dit.run_folder import RunFolder, versions
from video_dit.sampling.contact_sheet import contact_sheet, spread_frames
from video_dit.sampling.outputs import ClipFiles, Record, name_clips, sha256, unused_path, write_frames, write_gif
from video_dit.sampling.pipeline import SamplingWarning, VideoPipeline
from video_dit.sampling.ranks import Ranks, launched
from video_dit.sampling.requests import PATHS, REQUEST_KEYS, ClipRequest, parse_request, read_requests

EMOJI = Path(__file__).resolve().parents[1] / "pretrained" / "emoji"
"""The model that comes with the project."""
MOST_SHOWN = 64
"""Clips on a contact sheet, whose frames are held until all are made."""

EPILOG = f"""files of prompts:
  A .txt file has a prompt per line. A .jsonl file has an object per line with "prompt" and any of
  {", ".join(key for key in REQUEST_KEYS if key != "prompt")},
  and the keys of the config's [sampling] (train.py --help lists them); what a line leaves out is as on the command
  line. Paths in it are relative to its folder.

several GPUs:
  Under a launcher, such as torchrun --nproc-per-node 8 -- scripts/generate.py ..., they share the clips.
"""


class Made(NamedTuple):
    """A clip's files, and some of its frames [F, H, W, 3] where the contact sheet shows them."""

    files: ClipFiles
    frames: NDArray[np.uint8] | None


def main() -> None:
    args = parse_arguments()
    with launched() as ranks:
        show_warnings(SamplingWarning, shown=ranks.rank == 0)
        earlier = earlier_clip(args) if args.again else None
        if earlier:
            args.tile_size = earlier.tile_size
        requests = [earlier.request] if earlier else requests_of(args)
        run = run_of(args, earlier)
        args.out.mkdir(parents=True, exist_ok=True)
        pipeline = VideoPipeline.from_run(
            run,
            ranks.device,
            weights=earlier.weights if earlier else args.weights and args.weights.resolve(),
            precision=earlier.precision if earlier else args.precision,
            compile=args.compile,
            offload=args.offload,
            tile_size=args.tile_size,
        )
        if earlier:
            earlier.check(RunFolder(pipeline.run).made_of(pipeline.weights_file))
        jobs = plan_jobs(pipeline, requests)
        files = ranks.from_first(name_clips(args.out, requests, args.overwrite))
        made = generate(pipeline, jobs, files, args, ranks)
        if ranks.rank == 0:
            sheet = args.out / "contact-sheet.png"
            sheet = sheet if args.overwrite else unused_path(sheet)
            shown = [(made[index].frames, job.request.prompt) for index, job in enumerate(jobs[:MOST_SHOWN])]
            contact_sheet(*zip(*shown, strict=True)).save(sheet)
            print(*(made[index].files.mp4 for index in range(len(jobs))), sheet, sep="\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--run RUN] [--out OUT] [options] PROMPT ...",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompts", nargs="*", help="what to show")
    parser.add_argument(
        "--run", type=Path,
        help="run folder, made by scripts/train.py, or model, made by scripts/export.py; that of animated emoji in "
        "pretrained/emoji if not given",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="file of weights; the newest averaged ones if not given")
    parser.add_argument(
        "--out", type=Path, default=Path("clips"), help="folder for the clips (default clips); see --overwrite"
    )
    parser.add_argument("--prompts-file", type=Path, help="more prompts, after those given here; see below")
    parser.add_argument("--again", type=Path, metavar="JSON", help="make a clip again, from the JSON file beside it")

    clip = parser.add_argument_group("the clip")
    clip.add_argument("--negative-prompt", help="what to move away from")
    clip.add_argument("--seed", type=int, help="same seed and settings, same clip (default 0)")
    clip.add_argument("--frames", dest="num_frames", type=positive_int, help="length; as in training if not given")
    clip.add_argument("--height", type=positive_int, help="pixels; as in training if not given")
    clip.add_argument("--width", type=positive_int, help="pixels; as in training if not given")
    clip.add_argument("--fps", type=positive_float, help="frames per second; as in training if not given")
    clip.add_argument("--image", type=Path, help="the first frame, scaled and cropped to the clip's size")
    clip.add_argument("--last-image", type=Path, help="the last frame")
    clip.add_argument("--video", type=Path, help="a video to go on from, which the clip begins with")
    clip.add_argument(
        "--window", type=positive_int,
        help="frames computed at a time; all if not given, or with --video, as many as in training",
    )  # fmt: skip
    clip.add_argument(
        "--overlap", type=positive_int,
        help="last frames of the video, or of the window before, that a window is given; up to half of it if not given",
    )  # fmt: skip

    sampling = parser.add_argument_group("sampling, else as in [sampling] of the run's config")
    sampling.add_argument("--steps", dest="num_steps", type=positive_int, help="solver steps")
    sampling.add_argument("--solver", choices=get_args(Solver))
    sampling.add_argument("--guidance-scale", type=float, help="1: none")
    sampling.add_argument("--step-cache", type=float, help="skip blocks that hardly change; 0: never, 0.1: some")
    sampling.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of [sampling]")

    computing = parser.add_argument_group("computing")
    computing.add_argument(
        "--batch-size", type=positive_int, default=1,
        help="clips computed together (default 1); more can be faster, and may change a level of a pixel by rounding",
    )  # fmt: skip
    computing.add_argument("--precision", choices=get_args(Autocast), help="as in training if not given")
    computing.add_argument("--compile", action="store_true", help="compile the blocks: slow at first, then faster")
    computing.add_argument("--offload", action="store_true", help="weights wait in CPU memory: less memory, slower")
    computing.add_argument(
        "--tile-size", type=positive_int, nargs=3, metavar=("T", "H", "W"),
        help="latent cells that the autoencoder decodes at a time; as in the config if not given",
    )  # fmt: skip

    output = parser.add_argument_group("output")
    output.add_argument("--gif", action="store_true", help="a GIF of each clip, too")
    output.add_argument("--png", action="store_true", help="a folder of its frames, too")
    output.add_argument("--overwrite", action="store_true", help="take a name even if there is such a clip already")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    return parser.parse_intermixed_args()


def earlier_clip(args: argparse.Namespace) -> Record:
    """The record of the clip that is to be made again, which nothing else may change."""
    if args.prompts or args.prompts_file or asked(args) or args.precision or args.tile_size or args.weights:
        raise UserError("--again makes a clip as it was: leave out prompts, and options of the clip and of sampling")
    return Record.read(args.again)


def requests_of(args: argparse.Namespace) -> list[ClipRequest]:
    """The prompts of the command line, then those of the file."""
    keys = asked(args)
    requests = [parse_request({**keys, "prompt": prompt}) for prompt in args.prompts]
    if args.prompts_file:
        requests += read_requests(args.prompts_file, keys)
    if not requests:
        raise UserError("no prompt: give some, in quotes, or a file of them with --prompts-file")
    return requests


def run_of(args: argparse.Namespace, earlier: Record | None) -> Path:
    """The run that is named, that of the earlier clip, or the model that comes with the project."""
    if args.run:
        return args.run
    if earlier:
        return earlier.run
    if args.weights:
        raise UserError(f"--weights {args.weights} needs the run that it is of: name that with --run")
    if not EMOJI.is_dir():
        raise UserError(f"{EMOJI}, which comes with the project, is not there: name a run folder with --run")
    return EMOJI


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The keys of a request that the options set."""
    flags = (*REQUEST_KEYS, "num_steps", "solver", "guidance_scale", "step_cache")
    keys = {key: value for key, value in vars(args).items() if key in flags and value is not None}
    sampling = load_config(None, [f"sampling.{item}" for item in args.set]).sampling
    return {**keys, **sampling.model_dump(exclude_unset=True)}


def generate(
    pipeline: VideoPipeline, jobs: Sequence[Job], files: Sequence[ClipFiles], args: argparse.Namespace, ranks: Ranks
) -> dict[int, Made]:
    """Makes and writes this rank's clips. Returns, on rank 0, those of all ranks."""
    batches = ranks.share(batches_of(jobs, args.batch_size))
    own = [jobs[index] for batch in batches for index in batch]
    pipeline.encode_prompts(own_prompts := prompts_of(own))
    if ranks.rank == 0:  # which alone shows warnings
        for prompt in sorted({*prompts_of(jobs)} - {*own_prompts}):
            pipeline.warn_if_cut(prompt)
    hashes = {what: sha256(file) for what, file in RunFolder(pipeline.run).made_of(pipeline.weights_file).items()}
    label = "generating" if ranks.num_ranks == 1 else f"generating on rank 0 of {ranks.num_ranks}"
    made = {}
    with progress_bar(total=sum(job.num_steps for job in own), unit="step", label=label, shown=ranks.rank == 0) as bar:
        for batch in batches:
            clips = run_jobs(pipeline, [jobs[index] for index in batch], on_step=bar.update)
            for index, clip in zip(batch, clips, strict=True):
                own_files = record(pipeline, jobs[index].request, hashes, args).write(files[index], args.overwrite)
                write(own_files, clip, jobs[index].request, args)
                made[index] = Made(own_files, spread_frames(clip) if index < MOST_SHOWN else None)
    of_all = {index: clip for of_rank in ranks.gather(made) for index, clip in of_rank.items()}
    counts = ranks.gather((pipeline.step_cache.num_skipped, pipeline.step_cache.num_seen))
    if num_seen := sum(seen for _, seen in counts):
        share = sum(skipped for skipped, _ in counts) / num_seen
        print(f"step cache: in {share:.0%} of the steps the first block stood for all")
    return of_all


def prompts_of(jobs: Sequence[Job]) -> list[str]:
    return [text for job in jobs for text in (job.request.prompt, job.request.negative_prompt)]


def write(files: ClipFiles, clip: NDArray[np.uint8], request: ClipRequest, args: argparse.Namespace) -> None:
    write_mp4(files.mp4, clip, request.fps)
    if args.gif:
        write_gif(files.gif, clip, request.fps)
    if args.png:
        write_frames(files.frames, clip)


def record(pipeline: VideoPipeline, request: ClipRequest, hashes: dict[str, str], args: argparse.Namespace) -> Record:
    """All that the clip was made of, with paths that hold elsewhere too."""
    paths = {key: path.resolve() for key in PATHS if (path := getattr(request, key))}
    run, weights = pipeline.run.resolve(), pipeline.weights_file.resolve()
    return Record(
        request.model_copy(update=paths),
        run,
        str(weights.relative_to(run) if weights.is_relative_to(run) else weights),
        pipeline.precision,
        args.tile_size,
        {**hashes, **{key: sha256(path) for key, path in paths.items()}},
        versions(),
    )


if __name__ == "__main__":
    run_program(main)
