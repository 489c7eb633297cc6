"""What the programs share: how a user's mistake ends, and how long work shows itself."""

import argparse
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from video_dit.config import describe
from video_dit.errors import RankError, UserError

CONFIG_HELP = "keys of the config, for --config files and for table.key=value on the command line:\n\n" + describe()


def run_program(main: Callable[[], None]) -> NoReturn:
    """Runs a program to the exit of the process: a user's mistake is one message and exit code 2, no traceback."""
    try:
        main()
        print(end="", flush=True)
    except BrokenPipeError:  # who read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, RankError):
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:  # which any writer can meet
            raise
        print("error: " + ": ".join(filter(None, (error.filename, error.strerror))), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def positive_int(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a number from 1 on")
    return number


def count_or_zero(text: str) -> int:
    """For argparse: a whole number from 0 on."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is not a number from 0 on")
    return number


def positive_float(text: str) -> float:
    """For argparse: a number above 0."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{number:g} is not above 0")
    return number


def share(text: str) -> float:
    """For argparse: a number above 0, of at most 1."""
    number = positive_float(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{number:g} is above 1")
    return number


def show_warnings(category: type[Warning], shown: bool) -> None:
    """Warnings of this kind become a line each, or nothing; others stay as they are."""
    show_other = warnings.showwarning

    def show(message: Any, kind: type[Warning], *place: Any) -> None:
        if not issubclass(kind, category):
            show_other(message, kind, *place)
        elif shown:
            tqdm.write(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show


def progress_bar(
    items: Iterable[Any] | None = None, *, total: int | None = None, unit: str, label: str, shown: bool = True
) -> tqdm:
    """A bar with count, speed and time left; without a terminal, a line at the start, each half minute and the end."""
    if sys.stderr.isatty():
        return tqdm(items, total=total, unit=unit, desc=label, dynamic_ncols=True, file=sys.stderr, disable=not shown)
    return tqdm(
        items, total=total, unit=unit, desc=label, mininterval=30, maxinterval=30, file=_Lines(sys.stderr),
        disable=not shown, bar_format="{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}",
    )  # fmt: skip


class _Lines:
    """For a log file: each state of a bar on a line of its own, in place of carriage returns."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        self._file.flush()
