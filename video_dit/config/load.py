"""TOML files, dotted overrides, and the words in which a config speaks to its user."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import ValidationError

from video_dit.config.data import WHERE_AND_HOW
from video_dit.config.schema import Config
from video_dit.config.table import Table
from video_dit.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Values = dict[str, Any]


class ConfigError(UserError):
    """A config that the user can mend."""


def load_config(path: Path | None = None, overrides: Iterable[str] = (), fixed: Mapping[str, Values] = {}) -> Config:
    """A config from a TOML file, with overrides and with tables that are no longer free.

    Args:
        path: the file; None for the defaults alone.
        overrides: "table.key=value" each, the value as in TOML (quotes around a plain word may be left out).
        fixed: tables that something else has settled, such as those that the shards were made with. Of these, a user
            can still change the keys of `WHERE_AND_HOW`.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, a value is out of range, or a value contradicts `fixed`.
    """
    values = read_toml(path) if path else {}
    for override in overrides:
        _apply_override(values, override)
    for table, settled in fixed.items():
        if not isinstance(values.get(table, {}), dict):
            raise ConfigError(
                f"{table} is {values[table]!r}, and must be a table: set keys of it, such as {table}.KEY=VALUE"
            )
        chosen = {key for key in values.get(table, {}) if f"{table}.{key}" in WHERE_AND_HOW}
        for key, value in values.get(table, {}).items():
            if key in settled and key not in chosen and _plain(value) != _plain(settled[key]):
                raise ConfigError(
                    f"{table}.{key} is {value!r}, but the shards were made with {settled[key]!r}: "
                    f"leave the key out, or preprocess again with {table}.{key}={value}"
                )
        values[table] = {**values.get(table, {}), **{key: settled[key] for key in settled if key not in chosen}}
    return _validated(values, f" ({path})" if path else "")


def read_toml(path: Path) -> Values:
    """
    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such config file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error


def with_changes(config: Config, table: str, changes: Mapping[str, Any]) -> Config:
    """The config with other values for some keys of one of its tables.

    Raises:
        ConfigError: a key is unknown, or a value is out of range.
    """
    values = config.model_dump(exclude_unset=True)
    return _validated({**values, table: {**values.get(table, {}), **changes}})


def dump(config: Config, whole: bool = True) -> str:
    """A config as TOML that `load_config` reads back to an equal one; unless `whole`, only the keys that were set."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True, exclude_unset=not whole))


def describe() -> str:
    """Every key with its type, default and meaning, as `--help` shows them."""
    lines = []
    for name, field in _keys():
        type_name = _type_name(field.annotation)
        default = "none" if field.default is None else json.dumps(field.default)
        lines.append(f"  {name}  ({type_name}; default {default})\n      {field.description}")
    return "\n".join(lines)


def explain(error: ValidationError, where: str = "") -> str:
    """What is wrong with a table's values, a line for each key; `where` ends each."""
    return "\n".join(_explain(problem) + where for problem in error.errors())


def _validated(values: Values, where: str = "") -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, where)) from error


def _apply_override(values: Values, override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r} has no '=': write it as table.key=value, such as model.depth=12")
    *tables, key = name.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {table!r} is a value, not a table")
    try:
        values[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[key] = text.strip()


def _explain(problem: Any) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])  # a check of the schema, which names its keys
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name}: must be given"
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown key; {_nearest_keys(name)}"
    return f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _nearest_keys(name: str) -> str:
    """The key of the same table that looks most like it, else of any table, else what the table has."""
    known = [key for key, _ in _keys()]
    table, _, word = name.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == table}
    if near := get_close_matches(word, siblings, n=1):
        return f"did you mean {siblings[near[0]]}?"
    words = {part: key for key in known for part in (key.partition(".")[0], key.rpartition(".")[2])}
    if not table and (near := get_close_matches(word, words, n=1)):
        return f"did you mean {words[near[0]] if near[0] not in Config.model_fields else near[0]}?"
    return f"known here: {', '.join(siblings.values() or known)}"


def _keys(table: type[Table] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _type_name(annotation: Any) -> str:
    if hasattr(annotation, "__metadata__"):
        return _type_name(annotation.__origin__)
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if get_origin(annotation) is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if get_origin(annotation) is tuple:
        items = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {len(items) if items == arguments else 'any number of'} {_type_name(items[0])}"
    if get_origin(annotation) is dict:
        return "table"
    if arguments:
        return " or ".join([*(_type_name(argument) for argument in arguments), "none"])
    return str(annotation.__name__)


def _plain(value: Any) -> Any:
    """Tuples and lists, and whole floats and ints, compare equal once they have been through JSON or TOML."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
