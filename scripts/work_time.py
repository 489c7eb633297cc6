"""Works that take turns, and the time that each takes: by the clock, and of the processors by all its processes."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

import psutil
from command_line import progress_bar
from model_speed import compare

from data.forkserver import start_forkserver

WARM_UPS = 1

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds in which the system counts processor time: shorter works take one."""

Work = Callable[[], object]


class Taken(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Started as the engine starts its own, with one thread each."""
    start_forkserver("data")
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(workers, context)


def in_turns(works: dict[str, Work], repeats: int, label: str) -> dict[str, list[Taken]]:
    """What each takes, one after the other in every round."""
    taken: dict[str, list[Taken]] = {name: [] for name in works}
    for repeat in progress_bar(range(-WARM_UPS, repeats), unit="round", label=label):
        for name, work in works.items():
            start, cpu = time.perf_counter(), cpu_seconds()
            work()
            if repeat >= 0:
                taken[name].append(Taken(time.perf_counter() - start, max(TICK, cpu_seconds() - cpu)))
    return taken


def cpu_seconds() -> float:
    """Of this process and all that it has started, also of those that have ended."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user and system, its own and those of its ended children
    return total


def speed_row(part: str, work: str, counts: dict[str, int], taken: dict[str, list[Taken]]) -> dict[str, Any]:
    """Ours is the first of `taken`; ratios are of speeds, ours to each of the others.

    Args:
        counts: what is done in a round, such as frames; each gives the speeds of all.
    """
    ours, *others = taken
    wall = {name: [each.wall for each in of_name] for name, of_name in taken.items()}
    cpu = {name: [each.cpu for each in of_name] for name, of_name in taken.items()}
    return {
        "part": part,
        "work": work,
        "counts": counts,
        "per_second": {
            name: {counted: count / median(seconds) for counted, count in counts.items()}
            for name, seconds in wall.items()
        },
        "against": {
            name: {"wall": compare_speeds(wall[ours], wall[name]), "cpu": compare_speeds(cpu[ours], cpu[name])}
            for name in others
        },
    }


def compare_speeds(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """As `compare` does with seconds, but the ratios are of speeds: more than 1 is faster."""
    inverse = compare(theirs, ours)
    return compare(ours, theirs) | {name: inverse[name] for name in ("ratio", "ratio_min", "ratio_max")}


def preprocess_table(rows: list[dict[str, Any]]) -> str:
    """Ratios are of speeds: more than 1 is faster than the other, or less processor time."""
    lines = [f"{'':26}{'clips/s':>9}{'frames/s':>10}  {'against':26}{'ratio':>8}{'min to max':>18}{'of CPU time':>13}"]
    for row in rows:
        name = f"{row['part']}: {row['work']}"
        speed = next(iter(row["per_second"].values()))
        for other, ratios in row["against"].items():
            wall = ratios["wall"]
            spread = f"{wall['ratio_min']:.2f} to {wall['ratio_max']:.2f}"
            lines.append(
                f"{name:26}{speed.get('clips', speed.get('videos', 0)):>9,.1f}{speed['frames']:>10,.0f}  {other:26}"
                f"{wall['ratio']:>8.2f}{spread:>18}{ratios['cpu']['ratio']:>13.2f}"
            )
    return "\n".join(lines)
