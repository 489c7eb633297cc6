"""Scores of a user's own, computed by functions that the config names."""

import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from data.stages.failure import ClipError
from video_dit.errors import UserError


class Scorer:
    """A function from frames, uint8 [F, H, W, 3] RGB, to a number, which may fail for a clip.

    Args:
        key: of the config, which names the function.
        function: what it names.
    """

    def __init__(self, key: str, function: Callable[[NDArray[np.uint8]], object]) -> None:
        self._key = key
        self._function = function

    def __call__(self, frames: NDArray[np.uint8]) -> float:
        """
        Raises:
            ClipError: the function fails with these frames as data can make it fail, or gives no finite number. A
                mistake in it (TypeError, NameError, AttributeError ...) keeps its traceback.
        """
        try:
            score = self._function(frames)
        except (ValueError, ArithmeticError, LookupError, RuntimeError, OSError) as error:
            raise ClipError(f"{self._key} failed: {type(error).__name__}: {error}") from error
        if not isinstance(score, Real):
            raise ClipError(f"{self._key} gave a {type(score).__name__}, not a float (of a tensor, .item() is one)")
        if not math.isfinite(score):
            raise ClipError(f"{self._key} gave {float(score)}, not a finite number")
        return float(score)


def load_scorers(scorers: Mapping[str, str]) -> dict[str, Scorer]:
    """The functions behind `filters.scorers`.

    Args:
        scorers: names, and 'package.module:function'.

    Raises:
        UserError: one cannot be imported, or is no function.
    """
    return {name: _load(f"filters.scorers.{name}", path) for name, path in scorers.items()}


def _load(key: str, path: str) -> Scorer:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{key} names {path!r}, which needs another module: {error}. Install it") from error
        raise UserError(
            f"{key} names {path!r}, and there is no module {error.name}: correct the name, or put its folder into the "
            "environment's PYTHONPATH"
        ) from error
    except ImportError as error:
        raise UserError(f"{key} names {path!r}, which cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if function is None:
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "write it there, or name another"
        raise UserError(f"{key} names {path!r}, and {module} has no {name!r}: {hint}")
    if not callable(function):
        raise UserError(f"{key} names {path!r}, which is a {type(function).__name__}: name a function")
    return Scorer(key, function)
