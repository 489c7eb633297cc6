"""The contract of engines, and the simplest one."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from data.engine.guard import Guard
from data.engine.units import Unit
from data.output import OutputFolder


class Engine(Protocol):
    """Runs units."""

    def run(self, units: Sequence[Unit], results: OutputFolder) -> Iterator[tuple[int, bytes]]:
        """The index and the result of each unit, as they come, those that are there first.

        Args:
            units: of one stage.
            results: where results are kept; what is there already is not made again.

        Raises:
            UserError: a unit's work raises one, or there is nobody to work.
        """
        ...


class InProcess:
    """One unit after another in this process; nothing stops what hangs."""

    def run(self, units: Sequence[Unit], results: OutputFolder) -> Iterator[tuple[int, bytes]]:
        for index, result in known_results(units, results):
            if result is None:
                result = units[index].work(Guard())
                units[index].keep(result, results)
            yield index, result


def known_results(units: Iterable[Unit], results: OutputFolder) -> Iterator[tuple[int, bytes | None]]:
    return ((index, unit.known_result(results)) for index, unit in enumerate(units))
