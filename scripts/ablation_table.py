"""What came out of an ablation: the measures of every run, means with intervals over seeds, a table and a chart."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ablation_grid import Cell, Measure
from ablation_runs import Run
from ablation_size import Size
from interval_chart import Panel, Point, interval_chart

from video_dit.evaluation.intervals import t_interval
from video_dit.files import write_atomically

_DECIDE_LOSS = ("process", "prediction", "loss", "weighting", "min_snr_gamma", "min_t", "edm_mean", "edm_std")
"""Of [diffusion]: a validation loss is that of another question where one of these differs."""


class Quantity(NamedTuple):
    """A column of the table.

    read: its value from what `measured` gives.
    is_charted: it has a panel of the chart.
    """

    title: str
    higher_is_better: bool
    is_share: bool
    read: Callable[[Mapping[str, Any]], float]
    is_charted: bool = True

    def words(self, mean: float, interval: tuple[float, float] | None) -> str:
        spread = None if interval is None else (interval[1] - interval[0]) / 2
        if self.is_share:
            return f"{mean:.1%}" + ("" if spread is None else f" ± {100 * spread:.1f}")
        return f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _share(kind: str, name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda values: float(values["shapes_accuracy"][kind][name])


QUANTITIES: dict[Measure, list[Quantity]] = {
    "validation_loss": [Quantity("validation loss", False, False, lambda values: float(values["validation_loss"]))],
    "data_error": [
        Quantity("mean squared error of the data", False, False, lambda values: float(values["data_error"]))
    ],
    "shapes_accuracy": [
        Quantity("right, seen prompts", True, True, _share("seen", "all")),
        Quantity("right, held-out prompts", True, True, _share("held_out", "all")),
        *(
            Quantity(f"{name}, seen", True, True, _share("seen", name), False)
            for name in ("colour", "shape", "direction")
        ),
    ],
}


def measured(run: Run, measures: Sequence[Measure]) -> dict[str, Any]:
    """Of a run that is done: what `validation.jsonl` says of its last step, and its `evaluation.json`."""
    values: dict[str, Any] = {"run": str(run.path)}
    if last := run.folder.last_validation():
        values |= {"validation_loss": last["loss"], "validation_loss_by_t": last["loss_by_t"]}
        values |= {key: last[key] for key in ("data_error", "data_error_by_noise_ratio") if key in last}
    if "shapes_accuracy" in measures:
        values["shapes_accuracy"] = json.loads(run.folder.evaluation.read_text(encoding="utf-8"))
    return values


class Row(NamedTuple):
    """A cell and what was measured of it.

    of_seeds: what `measured` gives for each seed whose run is done.
    """

    cell: Cell
    size: Size
    of_seeds: dict[int, dict[str, Any]]

    def values(self, quantity: Quantity) -> list[float]:
        return [quantity.read(values) for values in self.of_seeds.values()]

    def key(self, quantity: Quantity) -> tuple[bool, float]:
        """By which rows are sorted, the best first and those without results last."""
        if not self.of_seeds:
            return True, 0.0
        mean = fmean(self.values(quantity))
        return False, -mean if quantity.higher_is_better else mean


def write_results(rows: Sequence[Row], measures: Sequence[Measure], num_seeds: int, title: str, out: Path) -> str:
    """Writes table.md, results.json and chart.png into the folder.

    Args:
        rows: in any order.
        measures: what they have; the first sorts them.
        num_seeds: that a row should have.
        title: of the grid.
        out: the ablation's folder.

    Returns:
        the table.
    """
    quantities = [quantity for measure in measures for quantity in QUANTITIES[measure]]
    ordered = sorted(rows, key=lambda row: row.key(quantities[0]))
    table = "\n".join(
        [f"# {title}", "", *_table(ordered, quantities, num_seeds), *_notes(ordered, measures, num_seeds)]
    )
    write_atomically(out / "table.md", table + "\n")
    results = {"grid": title, "measures": measures, "cells": [_json(row, quantities) for row in ordered]}
    write_atomically(out / "results.json", json.dumps(results, indent=2) + "\n")
    done = [row for row in ordered if row.of_seeds]
    if done:
        panels = [_panel(quantity, done) for quantity in quantities if quantity.is_charted]
        interval_chart([row.cell.name for row in done], panels).save(out / "chart.png")
    return table


def _table(rows: Sequence[Row], quantities: Sequence[Quantity], num_seeds: int) -> list[str]:
    heads = ["", "hidden_size", "parameters", "FLOPs per clip", *(quantity.title for quantity in quantities), "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row.cell.name, str(row.cell.config.model.hidden_size)]
        cells += [f"{row.size.parameters / 1e6:.3f} M", f"{row.size.flops / 1e9:.3f} G"]
        cells += [_summary(row, quantity) for quantity in quantities]
        lines.append(f"| {' | '.join([*cells, f'{len(row.of_seeds)} of {num_seeds}'])} |")
    return lines


def _summary(row: Row, quantity: Quantity) -> str:
    values = row.values(quantity)
    return quantity.words(fmean(values), t_interval(values)) if values else ""


def _notes(rows: Sequence[Row], measures: Sequence[Measure], num_seeds: int) -> list[str]:
    notes = ["", "Parameters that are trained; FLOPs of training, forward and backward."]
    if num_seeds > 1:
        notes += ["After ±: half of the 95% interval of the mean over seeds (Student's t)."]
    asked = {tuple(getattr(row.cell.config.diffusion, key) for key in _DECIDE_LOSS) for row in rows}
    if "validation_loss" in measures and len(asked) > 1:
        by_key = zip(_DECIDE_LOSS, zip(*asked, strict=True), strict=True)
        differing = ", ".join(f"diffusion.{key}" for key, values in by_key if len(set(values)) > 1)
        notes += [
            f"**Validation losses of rows that differ in {differing} cannot be compared**: they are errors of "
            "different things, or at different ratios of noise to signal."
        ]
    return notes


def _json(row: Row, quantities: Sequence[Quantity]) -> dict[str, Any]:
    cell = row.cell
    summary = {}
    for quantity in quantities:
        if values := row.values(quantity):
            summary[quantity.title] = {"mean": fmean(values), "interval": t_interval(values), "seeds": len(values)}
    return {
        "name": cell.name, "changes": cell.changes, "match": cell.match, "reference": cell.reference,
        "hidden_size": cell.config.model.hidden_size, **row.size._asdict(), "summary": summary, "runs": row.of_seeds,
    }  # fmt: skip


def _panel(quantity: Quantity, rows: Sequence[Row]) -> Panel:
    points = [Point(fmean(values), t_interval(values)) for values in (row.values(quantity) for row in rows)]
    return Panel(quantity.title, points, quantity.is_share)
