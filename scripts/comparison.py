"""Runs against clips that they were not trained on, side by side: measures, and a page to look at."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import progress_bar
from comparison_page import Row, comparison_page, comparison_sheet, shown_clips, write_clips
from held_out_loss import held_out_loss
from phrase_probe import PhraseProbe
from reference_clips import Neighbour, Reference, nearest, read_references
from shapes_score import score, shapes_asked_for
from torch import Tensor

from data.dataset_info import DatasetInfo, bucket_name
from video_dit.config import DataConfig
from video_dit.encoders import build_autoencoder
from video_dit.encoders.fingerprint import check_encoders
from video_dit.encoders.transformers_vision import TransformersVision
from video_dit.errors import UserError
from video_dit.evaluation.distances import frechet_distance, kernel_distance
from video_dit.evaluation.frame_features import frame_features, text_similarity
from video_dit.evaluation.i3d import i3d_features, load_i3d
from video_dit.evaluation.intervals import Interval, bootstrap_interval, half_sample_interval
from video_dit.evaluation.motion import motion_magnitude, temporal_flicker
from video_dit.files import write_atomically
from video_dit.run_folder import RunFolder
from video_dit.sampling.pipeline import VideoPipeline

OTHERS = "other held-out clips"
"""The row of what a perfect model would reach."""
MIN_REFERENCES = 8
"""As each half of both sets needs two clips."""


def compare(args: argparse.Namespace) -> None:
    """Writes comparison.json, .png and .html and the clips that it shows, and prints the measures.

    Args:
        args: of scripts/evaluate.py.

    Raises:
        UserError: the clips of runs and shards cannot be compared, or there are too few.
    """
    clip, device = _common_clip(args), torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def read(folder: Path) -> Iterator[Reference]:
        autoencoder = build_autoencoder(RunFolder(args.run[0]).load_config().autoencoder, device)
        return read_references(folder, clip.grid, autoencoder, device)

    if 2 * args.clips < MIN_REFERENCES:
        raise UserError(f"--clips is {args.clips}, and intervals need {MIN_REFERENCES // 2} clips of each set at least")
    references = [*islice(read(args.references), 2 * args.clips)]
    if len(references) < MIN_REFERENCES:
        raise UserError(
            f"{args.references} has {len(references)} clips of this size, and intervals need {MIN_REFERENCES} at least"
        )
    compared, others = references[: 2 * (len(references) // 2) : 2], references[1::2]
    if args.training:
        next(read(args.training))  # what is wrong with it is told before anything is computed
    probe = PhraseProbe(args.probe, read(args.training)) if args.probe else None
    measures = Measures(args, compared, others, probe, device)
    prompts = [reference.caption for reference in compared]
    losses: dict[str, Any] = {}
    clips_of = {OTHERS: _stack(others)}
    intervals_of = {OTHERS: measures.of(clips_of[OTHERS], [other.caption for other in others])}
    for run in args.run:
        losses[run.name], clips_of[run.name] = _loss_and_clips(run, prompts, args)
        intervals_of[run.name] = measures.of(clips_of[run.name], prompts)
    neighbours: dict[str, list[Neighbour]] = {}
    if args.training:
        found = iter(nearest(torch.cat([*clips_of.values()]), read(args.training)))
        neighbours = {name: [*islice(found, len(clips))] for name, clips in clips_of.items()}
        for name, of_set in neighbours.items():
            distances = np.array([neighbour.distance for neighbour in of_set])
            intervals_of[name]["distance to training"] = bootstrap_interval(distances)
    rows = [Row(run.name, clips_of[run.name], neighbours.get(run.name)) for run in args.run]

    figures = {
        "seed": args.seed,
        "clips": len(compared),
        "references": str(args.references),
        "measures": {
            name: {measure: interval._asdict() for measure, interval in of_row.items()}
            for name, of_row in intervals_of.items()
        },
        "held_out_loss": losses,
    }
    print(_table(figures["measures"]), *_write(args.out, figures, compared, rows, clip.fps), sep="\n")


def _common_clip(args: argparse.Namespace) -> DataConfig:
    """The clip that all runs make, and shards hold, as it was encoded for these runs.

    Raises:
        UserError: they differ.
    """
    shards = {folder: DatasetInfo.read(folder) for folder in (args.references, args.training) if folder}
    clips = {}
    for run in args.run:
        config = RunFolder(run).load_config()
        clips[run] = RunFolder(run).load_data().usual_clip(config.data)
        for folder, info in shards.items():
            check_encoders(config, info.fingerprints, str(folder))
    (first_run, first), *others = clips.items()
    for run, clip in others:
        if (clip.grid, clip.fps) != (first.grid, first.fps):
            raise UserError(
                f"{run} makes clips of {_described(clip)}, and {first_run} of {_described(first)}: compare runs of one "
                "size and frame rate"
            )
    for folder, info in shards.items():
        if (fps := info.tables["data"]["fps"]) != first.fps:
            raise UserError(
                f"{folder} has clips of {fps:g} frames per second, and {first_run} makes them of {first.fps:g}: "
                f"preprocess those with data.fps={first.fps:g}"
            )
    return first


def _described(clip: DataConfig) -> str:
    return f"{bucket_name(clip.grid)} at {clip.fps:g} frames per second"


def _loss_and_clips(run: Path, prompts: Sequence[str], args: argparse.Namespace) -> tuple[dict[str, Any], Tensor]:
    """Of one run, whose weights are in memory for no longer than that."""
    pipeline = VideoPipeline.from_run(run)
    loss = held_out_loss(pipeline, args.references, args.clips)
    seeds = [args.seed + index for index in range(len(prompts))]
    total = len(prompts) * pipeline.config.sampling.num_steps
    with progress_bar(total=total, unit="step", label=f"generating by {run.name}") as bar:
        return loss, pipeline(prompts, seeds, batch_size=args.batch_size, on_step=bar.update)


class Measures:
    """What is measured of a set of clips, against the references."""

    def __init__(
        self,
        args: argparse.Namespace,
        references: list[Reference],
        others: list[Reference],
        probe: PhraseProbe | None,
        device: torch.device,
    ) -> None:
        """
        Args:
            args: of scripts/evaluate.py.
            references: that sets of clips are compared with.
            others: whose measures will stand beside; what only one of both sets has is not measured.
            probe: if one is asked for.
            device: for the networks.

        Raises:
            UserError: weights cannot be read, or the captions of a set hold no phrase of the probe.
        """
        captions, of_others = ([reference.caption for reference in of_set] for of_set in (references, others))
        self._are_of_shapes = shapes_asked_for([*captions, *of_others]) is not None
        if probe is not None:
            for of_set in (captions, of_others):
                probe.phrases_in(of_set)
        clips = _stack(references)
        self._i3d = load_i3d(args.i3d).to(device) if args.i3d else None
        self._encoder = TransformersVision(args.encoder, device, "--encoder") if args.encoder else None
        self._i3d_references = i3d_features(clips, self._i3d) if self._i3d else None
        self._frame_references = frame_features(clips, self._encoder) if self._encoder else None
        self._probe = probe

    def of(self, clips: Tensor, prompts: list[str]) -> dict[str, Interval]:
        """
        Args:
            clips: uint8 [N, F, H, W, 3].
            prompts: N, what they show.
        """
        intervals = {}
        scores = {"motion": motion_magnitude(clips)}
        if clips.shape[1] > 2:
            scores["flicker"] = temporal_flicker(clips)
        if self._i3d is not None:
            features = i3d_features(clips, self._i3d)
            intervals["FVD"] = half_sample_interval(frechet_distance, features, self._i3d_references)
        if self._encoder is not None:
            features = frame_features(clips, self._encoder)
            intervals["FID per frame"] = half_sample_interval(frechet_distance, features, self._frame_references)
            intervals["KID per frame"] = half_sample_interval(kernel_distance, features, self._frame_references)
            if self._encoder.reads_texts:
                scores["text similarity"] = text_similarity(features, prompts, self._encoder)
        if self._are_of_shapes:
            asked = shapes_asked_for(prompts)
            shares = score(asked, clips.numpy())
            intervals["as asked"] = Interval(shares["all"], *shares["interval"])
        if self._probe is not None:
            intervals["phrase by colour"] = self._probe.score(clips, prompts)
        return intervals | {name: bootstrap_interval(of_clips.numpy()) for name, of_clips in scores.items()}


def _write(
    out: Path, figures: Mapping[str, Any], compared: Sequence[Reference], rows: Sequence[Row], fps: float
) -> list[Path]:
    """The files that a user looks at, beside the clips that they show."""
    out.mkdir(parents=True, exist_ok=True)
    data, picture, page = (out / f"comparison.{suffix}" for suffix in ("json", "png", "html"))
    write_atomically(data, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    columns = shown_clips(compared, rows)
    comparison_sheet([reference.caption for reference in compared], columns).save(picture)
    write_atomically(page, comparison_page(figures, compared, rows, write_clips(out / "clips", columns, fps)))
    return [data, picture, page]


def _stack(references: list[Reference]) -> Tensor:
    return torch.stack([reference.frames for reference in references])


def _table(measures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    names = [*next(iter(measures.values()))]
    width = max(map(len, measures)) + 2
    lines = [" " * width + "".join(f"{name:>36}" for name in names)]
    for row, of_row in measures.items():
        cells = ("{value:.4g} ({low:.4g} to {high:.4g})".format(**of_row[name]) for name in names)
        lines.append(f"{row:{width}}" + "".join(f"{cell:>36}" for cell in cells))
    return "\n".join(lines)
