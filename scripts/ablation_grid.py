"""Grids of ablations: what a TOML file says, and the cells that it stands for.

A cell is one row of the resulting table. Its keys are those of [base], of one of [[rows]] and of one value of each of
[axes]; they go over the config that `config` names. Keys may be nested or dotted, in quotes or not. Beside those of a
config, a cell can have `match` and `reference`: see `Cell`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tomli_w
from pydantic import Field, ValidationError

from video_dit.config import Config, ConfigError, explain, load_config, read_toml
from video_dit.config.table import Count, CountOrZero, Table
from video_dit.errors import UserError

Values = dict[str, Any]
Measure = Literal["validation_loss", "data_error", "shapes_accuracy"]
Match = Literal["parameters", "flops"]

_NOT_OF_CONFIG = ("match", "reference")


class Grid(Table):
    """The file. Everything in it has a default but what is compared."""

    config: Path | None = Field(None, description="TOML file under all cells, relative to the grid; none: the defaults")
    seeds: Annotated[tuple[CountOrZero, ...], Field(min_length=1)] = Field((0, 1, 2), description="of each cell's runs")
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = Field(
        ("validation_loss",), description="the table is sorted by the first of them"
    )
    shapes_clips: Count = Field(120, description="shapes_accuracy: clips of each kind, seen and held out, for each run")
    base: Values = Field({}, description="keys of all cells")
    axes: Values = Field({}, description="keys with a list of values each, of which every combination is taken")
    rows: tuple[Values, ...] = Field((), description="keys of one cell each, with its name")


class Cell(NamedTuple):
    """
    name: tells it from the others.
    config: of its runs, but for their seed.
    match: what its width is chosen for to be as near as can be to that of the reference; None: its width is its own.
    reference: that cell's name.
    changes: what makes it this cell, by key.
    """

    name: str
    config: Config
    match: Match | None
    reference: str | None
    changes: Values


@dataclass(frozen=True)
class _Choice:
    """A row with one value of each axis; `row` is None where the grid has none."""

    row: str | None
    of_row: Values
    of_axes: Values

    @property
    def name(self) -> str:
        parts = [self.row] if self.row is not None else []
        for key, value in self.of_axes.items():
            parts.append(f"equal {value}" if key == "match" else f"{key.rpartition('.')[2]} = {_plain(value)}")
        return ", ".join(parts) or "base"


def read_grid(path: Path) -> Grid:
    """
    Raises:
        UserError: it cannot be read, a key is unknown, or a value is not what it must be.
    """
    values = read_toml(path)
    for key in values:
        if key not in Grid.model_fields:
            near = get_close_matches(key, Grid.model_fields, n=1)
            of_cells = f"known here: {', '.join(Grid.model_fields)}; keys of a config go into [base]"
            raise UserError(f"{path}: {key}: unknown key; {f'did you mean {near[0]}?' if near else of_cells}")
    try:
        return Grid.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, f" ({path})")) from error


def cells_of(grid: Grid, path: Path, fixed: Mapping[str, Values]) -> list[Cell]:
    """All cells in the order of the file: for each row every combination of the axes, the last of which varies fastest.

    Args:
        grid: what the file says.
        path: of the file.
        fixed: config tables that the shards were made with.

    Raises:
        UserError: a cell's config has a mistake, two cells have one name, or a reference is none.
    """
    file = None if grid.config is None else path.parent / grid.config
    base = _flat(grid.base)
    choices = list(_choices(grid, base, path))
    names = {choice.name for choice in choices}
    cells: dict[str, Cell] = {}
    for choice in choices:
        keys = {**base, **_flat({**choice.of_row, **choice.of_axes})}
        match, reference = (keys.pop(key, None) for key in _NOT_OF_CONFIG)
        if reference is not None and reference == choice.row:
            match = reference = None
        if match is not None:
            reference = _reference(choice, match, reference, names, path)
        try:
            config = load_config(file, [f"{key}={_toml(value)}" for key, value in keys.items()], fixed)
        except ConfigError as error:
            raise UserError(f"{path}, {choice.name}: {error}") from error
        changes = {key: value for key, value in keys.items() if key not in base or base[key] != value}
        cell = Cell(choice.name, config, match, reference, changes)
        if cells.setdefault(cell.name, cell) != cell:
            raise UserError(f"{path}: two cells are called {cell.name!r}: give [[rows]] names of their own")
    return list(cells.values())


def _choices(grid: Grid, base: Values, path: Path) -> Iterator[_Choice]:
    axes = _axes(grid, path)
    rows = [_flat(row) for row in grid.rows]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("name"), str):
            raise UserError(f"{path}: row {number} of [[rows]] has no name: give it one, such as name = 'MM-DiT'")
        if both := [key for key in row if key in axes]:
            raise UserError(f"{path}: {both[0]} is in [axes] and in row {row['name']!r}: leave it out of one of them")
    for row in rows or [{}]:
        name, own = row.get("name"), {key: value for key, value in row.items() if key != "name"}
        for values in product(*axes.values()):
            of_axes = dict(zip(axes, values, strict=True))
            if name is not None and name == {**base, **own, **of_axes}.get("reference"):
                of_axes.pop("match", None)  # it is as large as it is, so one cell serves both matches
            yield _Choice(name, own, of_axes)


def _axes(grid: Grid, path: Path) -> dict[str, list[Any]]:
    axes = _flat(grid.axes)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: {key} in [axes] is {values!r}: give a list of values, such as [{values!r}]")
    return axes


def _reference(choice: _Choice, match: Any, reference: Any, names: set[str], path: Path) -> str:
    """The name of the cell that has the same values of all axes but `match`."""
    if match not in ("parameters", "flops"):
        raise UserError(f"{path}, {choice.name}: match is {match!r}: use 'parameters' or 'flops'")
    others = {key: value for key, value in choice.of_axes.items() if key != "match"}
    name = _Choice(reference, {}, others).name
    if reference is None or name not in names or name == choice.name:
        raise UserError(
            f"{path}, {choice.name}: match = {match!r} needs a reference, and {reference!r} is not the name of another "
            "of [[rows]]: name one, such as reference = 'MM-DiT'"
        )
    return name


def _flat(values: Values, prefix: str = "") -> Values:
    """By dotted keys."""
    flat: Values = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _toml(value: Any) -> str:
    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_plain(of_key)}" for key, of_key in _flat(value).items())
    return value if isinstance(value, str) else " ".join(_toml(value).split())
