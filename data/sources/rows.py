"""The rows of a manifest (.jsonl, .csv, .parquet), and the files that they name."""

import ast
import codecs
import csv
import io
import json
from collections.abc import Iterator
from string import Formatter
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from video_dit.config import DataConfig
from video_dit.errors import UserError

MANIFEST_SUFFIXES = (".jsonl", ".csv", ".parquet")


class RowError(UserError):
    """A row that names no file; the message says why."""


class FormatError(RowError):
    """A row that cannot be read, or lacks a column: if all of them are so, the manifest or the config is wrong."""


Row = dict[str, Any]


def read_rows(file: BinaryIO, suffix: str) -> Iterator[tuple[str, Row | FormatError]]:
    """Each row with its place in the file ("row 3"; lines count from 1), or what is wrong with it.

    Raises:
        UserError: the file as a whole is no such manifest.
    """
    if suffix == ".parquet":
        yield from ((f"row {number}", row) for number, row in enumerate(_parquet_rows(file), start=1))
        return
    start = file.read(2)
    file.seek(0)
    # Bytes that are no text stay: they can be a file's name. csv wants line ends as they are.
    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    errors = "strict" if encoding == "utf-16" else "surrogateescape"
    text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="" if suffix == ".csv" else None)
    try:
        rows = _csv_rows(text) if suffix == ".csv" else map(_json_row, text)
        for number, row in enumerate(rows, start=1):
            if row is not None:
                yield f"row {number}", row
    except UnicodeDecodeError as error:
        raise UserError(f"is not a {suffix} manifest: {error}") from error


def clips_of(row: Row, config: DataConfig) -> list[Row]:
    """The row, or one for each clip where `data.list_columns` hold lists (written as Python's in a CSV).

    Raises:
        RowError: there are no such lists, or they differ in length.
    """
    if not config.list_columns:
        return [row]
    lists = {column: _list(_column(row, column), column) for column in config.list_columns}
    lengths = {column: len(values) for column, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise RowError("lists differ in length: " + ", ".join(f"{name} has {n}" for name, n in lengths.items()))
    count = next(iter(lengths.values()))
    return [{**row, **{name: values[k] for name, values in lists.items()}, "clip": k} for k in range(count)]


def name_of(row: Row, config: DataConfig) -> str:
    """The file that a row names.

    Raises:
        FormatError: there is no such column.
        RowError: it holds no name.
    """
    if config.path_template is None:
        name = _column(row, config.path_column)
        if not isinstance(name, str) or not name:
            raise RowError(f"{config.path_column} is {name!r}, not the name of a file")
        return name
    for _, field, _, _ in Formatter().parse(config.path_template):
        if field is not None and (value := _column(row, field)) in (None, ""):
            raise RowError(f"{field} is {value!r}, and data.path_template needs it")
    try:
        return config.path_template.format_map(row)
    except ValueError as error:  # a format that does not fit the value
        raise RowError(f"data.path_template cannot be filled in: {error}") from error


def _column(row: Row, column: str) -> Any:
    if column not in row:
        raise FormatError(
            f"no column {column!r}, only {', '.join(map(repr, row))}: name the column of video files with "
            "data.path_column, or columns that make up the name with data.path_template"
        )
    return row[column]


def _list(value: Any, column: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise RowError(f"{column} is no list") from error
    if not isinstance(value, list):
        raise RowError(f"{column} is no list")
    return value


def _json_row(line: str) -> Row | FormatError | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return FormatError(f"is not JSON ({error})")
    return row if isinstance(row, dict) else FormatError(f"expected an object with columns, not {row!r}")


def _csv_rows(text: io.TextIOWrapper) -> Iterator[Row | FormatError]:
    rows = csv.DictReader(text)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield FormatError(f"is not CSV ({error})")
            continue
        if row is None:
            return
        if any(row.pop(None, [])):  # type: ignore[call-overload]
            yield FormatError("has more fields than there are columns: a text with a comma wants quotes around it")
        else:
            yield row


def _parquet_rows(file: BinaryIO) -> Iterator[Row]:
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"is not a .parquet manifest: {error}") from error
