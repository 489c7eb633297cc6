"""Generates a clip for each prompt with a trained run: MP4 files, and a contact sheet that shows them all."""

import argparse
import re
from pathlib import Path

from command_line import positive_int, progress_bar, run_program

from data.video import write_mp4
from video_dit.errors import UserError
from video_dit.sampling.contact_sheet import contact_sheet
from video_dit.sampling.pipeline import VideoPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*", help="what to show")
    parser.add_argument("--run", type=Path, required=True, help="run folder, made by scripts/train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips; nothing in it is overwritten")
    parser.add_argument("--prompts-file", type=Path, help="a text file with a prompt per line, after those given here")
    parser.add_argument("--negative-prompt", default="", help="what to move away from")
    parser.add_argument("--seed", type=int, default=0, help="same seed and settings, same clip (default 0)")
    parser.add_argument("--frames", type=positive_int, help="length; as in training if not given")
    parser.add_argument("--height", type=positive_int, help="pixels; as in training if not given")
    parser.add_argument("--width", type=positive_int, help="pixels; as in training if not given")
    parser.add_argument("--steps", type=positive_int, help="solver steps; sampling.num_steps of the run if not given")
    parser.add_argument("--solver", choices=("euler", "heun"), help="sampling.solver of the run if not given")
    parser.add_argument("--guidance-scale", type=float, help="sampling.guidance_scale of the run if not given; 1: none")
    parser.add_argument("--batch-size", type=positive_int, default=16, help="clips computed together (default 16)")
    args = parser.parse_intermixed_args()

    prompts = args.prompts + (read_prompts(args.prompts_file) if args.prompts_file else [])
    if not prompts:
        raise UserError("no prompt: give some, in quotes, or a file of them with --prompts-file")
    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = VideoPipeline.from_run(args.run)
    num_steps = args.steps or pipeline.config.sampling.num_steps
    with progress_bar(total=len(prompts) * num_steps, unit="step", label="generating") as bar:
        clips = pipeline(
            prompts,
            args.seed,
            num_frames=args.frames,
            height=args.height,
            width=args.width,
            num_steps=num_steps,
            guidance_scale=args.guidance_scale,
            solver=args.solver,
            negative_prompt=args.negative_prompt,
            batch_size=args.batch_size,
            on_step=bar.update,
        ).numpy()

    for prompt, clip in zip(prompts, clips, strict=True):
        path = unused_path(args.out / f"{slug(prompt)}-seed{args.seed}.mp4")
        write_mp4(path, clip, pipeline.config.data.fps)
        print(path)
    sheet = unused_path(args.out / "contact-sheet.png")
    contact_sheet(clips, prompts).save(sheet)
    print(sheet)


def read_prompts(path: Path) -> list[str]:
    """The lines that are not empty."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file of prompts")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def slug(prompt: str) -> str:
    """A file name that tells what is shown."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "clip"


def unused_path(path: Path) -> Path:
    """The path, or the first of path-2, path-3 ... that is free."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


if __name__ == "__main__":
    run_program(main)
