"""comparison.html: measures of several runs, their losses, and their clips side by side."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from line_chart import line_chart
from PIL import Image
from reference_clips import Neighbour, Reference
from torch import Tensor

from data.report.markup import Markup, element, joined, verbatim
from data.video import write_mp4
from video_dit.diffusion.objective import NUM_BINS
from video_dit.sampling.contact_sheet import contact_sheet, spread_frames

SHOWN = 16
"""Clips of each run: the first, whatever they look like."""
SHEET_FRAMES = 4
"""Of each clip in the picture of them all."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; text-align: right; }
th:first-child { text-align: left; }
tr { border-bottom: 1px solid #ddd; } small { color: #666; display: block; } img { max-width: 100%; }
.clips { overflow-x: auto; } .clips td { text-align: left; vertical-align: top; max-width: 12rem; }
video { width: 10rem; image-rendering: pixelated; display: block; }
"""


class Row(NamedTuple):
    """
    name: of the run.
    clips: uint8 [N, F, H, W, 3].
    neighbours: of the clips, the nearest of training.
    """

    name: str
    clips: Tensor
    neighbours: list[Neighbour] | None


Columns = Mapping[str, Sequence[Tensor]]
"""Clips side by side, uint8 [F, H, W, 3]: by what a column is of, one for each prompt."""


def shown_clips(compared: Sequence[Reference], rows: Sequence[Row]) -> Columns:
    """The held-out clips, then those of each run, and beside them their nearest of training."""
    columns = {"held out": [reference.frames for reference in compared[:SHOWN]]}
    for row in rows:
        columns[row.name] = [*row.clips[:SHOWN]]
        if row.neighbours is not None:
            columns[_nearest_to(row)] = [neighbour.reference.frames for neighbour in row.neighbours[:SHOWN]]
    return columns


def write_clips(folder: Path, columns: Columns, fps: float) -> dict[str, list[Path]]:
    """The files of each column, relative to the folder's own folder."""
    folder.mkdir(exist_ok=True)
    files: dict[str, list[Path]] = {}
    for name, clips in columns.items():
        stem = re.sub(r"[^\w.-]+", "-", name)
        files[name] = [Path(folder.name) / f"{stem}-{index:02d}.mp4" for index in range(len(clips))]
        for file, clip in zip(files[name], clips, strict=True):
            write_mp4(folder.parent / file, clip.numpy(), fps)
    return files


def comparison_sheet(prompts: Sequence[str], columns: Columns) -> Image.Image:
    """A row for each prompt, with a few frames of each column's clip, and white between."""
    rows = []
    for clips in zip(*columns.values(), strict=True):
        strips = [spread_frames(clip.numpy(), SHEET_FRAMES) for clip in clips]
        white = np.full_like(strips[0][:1], 255)
        rows.append(np.concatenate([part for strip in strips for part in (strip, white)][:-1]))
    labels = [f"{prompt} ({' | '.join(columns)})" for prompt in prompts[: len(rows)]]
    return contact_sheet(rows, labels, num_columns=max(map(len, rows)))


def comparison_page(
    figures: Mapping[str, Any], compared: Sequence[Reference], rows: Sequence[Row], files: Mapping[str, Sequence[Path]]
) -> str:
    """The page, which stands beside its clips.

    Args:
        figures: as in comparison.json.
        compared: the clips that the runs' are compared with.
        rows: of the runs.
        files: as `write_clips` gives them.
    """
    losses = figures["held_out_loss"]
    by_t = {
        name: [((index + 0.5) / NUM_BINS, loss["value"]) for index, loss in enumerate(of_run["loss_by_t"])]
        for name, of_run in losses.items()
    }
    by_ratio = {
        name: [(ratio, error["value"]) for ratio, error in of_run["data_error_by_noise_ratio"].items()]
        for name, of_run in losses.items()
    }
    means = {name: {"loss": of_run["loss"], "error": of_run["data_error"]} for name, of_run in losses.items()}
    title = f"{', '.join(row.name for row in rows)} against {figures['clips']} held-out clips"
    body = [
        element("h1", title),
        element("p", f"Seeds from {figures['seed']} on; references: {figures['references']}. Intervals are of 95 %."),
        element("h2", "Measures"),
        _measures(figures["measures"]),
        element("h2", "Losses"),
        element("p", f"Means over {next(iter(losses.values()))['clips']} held-out clips, the first by their ids."),
        _measures(means),
        element("h3", "Loss by timestep"),
        element(
            "p", "That of each run's own objective: one of another process, prediction or loss cannot be compared."
        ),
        _chart(by_t, "t: 0 is data, 1 is noise", "loss"),
        element("h3", "Error of the data that they predict"),
        element("p", "Mean squared error at ratios of noise to signal, which compares all runs."),
        _chart(by_ratio, "sigma / alpha", "error"),
        element("h2", f"The first {min(SHOWN, len(compared))} clips"),
        element("p", "The held-out clips are shuffled, always alike; none was picked."),
        element("div", _clips(compared, rows, files), class_="clips"),
    ]
    head = (element("meta", charset="utf-8"), element("title", title), element("style", verbatim(_STYLE)))
    return f"<!DOCTYPE html>\n{element('html', element('head', *head), element('body', *body), lang='en')}\n"


def _measures(measures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Markup:
    names = [*next(iter(measures.values()))]
    rows = [element("tr", element("th", ""), *(element("th", name) for name in names))]
    for name, of_row in measures.items():
        cells = (
            element("td", f"{measure['value']:.4g}", element("small", f"{measure['low']:.4g} to {measure['high']:.4g}"))
            for measure in (of_row[key] for key in names)
        )
        rows.append(element("tr", element("th", name), *cells))
    return element("table", *rows)


def _chart(series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> Markup:
    png = io.BytesIO()
    line_chart(series, x, y).save(png, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode('ascii')}"
    return element("img", src=source, alt=f"{y} of each run by {x}")


def _clips(compared: Sequence[Reference], rows: Sequence[Row], files: Mapping[str, Sequence[Path]]) -> Markup:
    neighbours = {_nearest_to(row): row.neighbours for row in rows if row.neighbours is not None}
    lines = [element("tr", element("th", "prompt"), *(element("th", name) for name in files))]
    for index, reference in enumerate(compared[:SHOWN]):
        cells = []
        for name, of_column in files.items():
            of_training = neighbours.get(name)
            words = _words(of_training[index]) if of_training else joined()
            source = of_column[index].as_posix()
            video = element("video", src=source, autoplay=True, loop=True, muted=True, playsinline=True)
            cells.append(element("td", video, words))
        lines.append(element("tr", element("td", reference.caption), *cells))
    return element("table", *lines)


def _words(neighbour: Neighbour) -> Markup:
    return element("small", f"{neighbour.reference.caption} (distance {neighbour.distance:.3f})")


def _nearest_to(row: Row) -> str:
    return f"{row.name}: nearest of training"
