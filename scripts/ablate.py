"""Runs a grid of ablations, seed by seed, and tables what came out with intervals; the same command again goes on."""

import argparse
import signal
import sys
from pathlib import Path

import torch
from ablation_grid import Cell, Grid, cells_of, read_grid
from ablation_runs import Run, Shards, do_runs, places, runs_of
from ablation_size import Size, equal_sizes
from ablation_table import Row, measured, write_results
from command_line import positive_int, run_program

from data.dataset_info import DatasetInfo
from video_dit.errors import UserError
from video_dit.training.deepspeed_config import check_device, deepspeed_config


def main() -> None:
    args = arguments()
    grid = read_grid(args.grid)
    shards = shards_of(args, grid)
    cells = checked_cells(args, grid, shards)
    runs = runs_of([cell for cell, _ in cells], grid, shards, args.out)

    def write() -> str:
        return results(cells, runs, grid, args)

    if args.plan:
        print(planned(cells, len(grid.seeds)))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the runs are stopped, too
    each_once = {run.path: run for of_cell in runs.values() for run in of_cell}
    failed = do_runs(list(each_once.values()), args.jobs, args.out, write)
    print(f"\n{write()}\n\n{args.out / 'table.md'}\n{args.out / 'results.json'}\n{args.out / 'chart.png'}")
    if failed:
        print(f"{len(failed)} runs failed; the same command tries them again:", file=sys.stderr)
        print(*(f"    {run}: {run.log}" for run in failed), sep="\n", file=sys.stderr)
        sys.exit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--grid", type=Path, required=True, help="TOML file; configs/ablations/ has some, docs/ablations.md says how")
    add("--data", type=Path, required=True, help="folder of shards to train on")
    add("--validation", type=Path, help="folder of shards that are not trained on, for the validation loss")
    add("--out", type=Path, required=True, help="folder for the runs, the table and the chart")
    add(
        "--jobs", type=positive_int, default=1,
        help="runs at a time, each with its share of the GPUs or of the CPU's threads (default 1)",
    )  # fmt: skip
    add("--plan", action="store_true", help="run nothing: check every config, and say how large each model is")
    return parser.parse_args()


def shards_of(args: argparse.Namespace, grid: Grid) -> Shards:
    """
    Raises:
        UserError: there are none, or they do not go together.
    """
    on_held_out = [measure for measure in grid.measures if measure != "shapes_accuracy"]
    if on_held_out and args.validation is None:
        raise UserError(
            f"{args.grid} measures the {on_held_out[0]}, for which --validation must name shards that are not trained "
            "on: give it, or set measures to something else"
        )
    info = DatasetInfo.read(args.data)
    held_out = None if args.validation is None else DatasetInfo.read(args.validation)
    if held_out is not None:
        held_out.check_goes_with(info, args.validation, args.data)
    return Shards(args.data, info, args.validation, held_out)


def checked_cells(args: argparse.Namespace, grid: Grid, shards: Shards) -> list[tuple[Cell, Size]]:
    """All cells with their widths and sizes.

    Raises:
        UserError: one could not be run.
    """
    cells = cells_of(grid, args.grid, shards.info.tables)
    num_ranks = max(place.num_ranks for place in places(args.jobs))
    for cell in cells:
        try:
            deepspeed_config(cell.config, num_ranks)
            check_device(cell.config.training, torch.cuda.is_available())
            Size.of(cell.config, shards.info.encoded)
        except UserError as error:
            raise UserError(f"{args.grid}, {cell.name}: {error}") from error
    return equal_sizes(cells, shards.info.encoded)


def planned(cells: list[tuple[Cell, Size]], num_seeds: int) -> str:
    lines = [f"{len(cells)} cells, {num_seeds} seeds each"]
    width = max(len(cell.name) for cell, _ in cells)
    for cell, size in cells:
        lines.append(
            f"  {cell.name:{width}}  hidden_size {cell.config.model.hidden_size:>5}  "
            f"{size.parameters / 1e6:>9.3f} M trained  {size.flops / 1e9:>9.3f} GFLOP per clip"
        )
    return "\n".join(lines)


def results(cells: list[tuple[Cell, Size]], runs: dict[str, list[Run]], grid: Grid, args: argparse.Namespace) -> str:
    """Writes what is there, and returns the table."""
    rows = []
    for cell, size in cells:
        done = [run for run in runs[cell.name] if not run.left()]
        rows.append(Row(cell, size, {run.seed: measured(run, grid.measures) for run in done}))
    return write_results(rows, grid.measures, len(grid.seeds), args.grid.stem, args.out)


if __name__ == "__main__":
    run_program(main)
