"""Preprocessing and its parts, against the same work done by plain PyAV and against the decoder's limit, in turns."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from command_line import progress_bar
from plain_pyav import decode_all, decode_and_resize, decode_first, frame_times
from preprocess_jobs import TIME_LIMIT, encoder_source
from work_time import Work, in_turns, process_pool, speed_row

from data.decoders import Size, read_frames
from data.engine import Engine, Guard, Unit, local_engine
from data.output import OutputFolder, output_folder
from data.preprocess import preprocess
from data.probe import VideoError, VideoInfo, probe
from data.sources.discovery import discover
from data.stages.features import working_size
from data.video import cover
from video_dit.config import Config, Limits, load_config
from video_dit.errors import UserError

PARTS = ("probe", "decode", "stages", "pipeline", "engine")

LIMIT, IN_POOL = "PyAV, all cores", "PyAV in a pool"
"""One file after another, with FFmpeg's threads; and a file in each process, with one thread."""


class Case(NamedTuple):
    """A video, and the size that its frames get."""

    path: Path
    info: VideoInfo
    times: tuple[float, ...]
    size: Size


class Bench:
    """The videos, each as often as --copies says, and a pool of processes for plain work.

    Raises:
        UserError: there are no videos, or one cannot be read.
    """

    def __init__(self, args: argparse.Namespace, folder: Path, pool: ProcessPoolExecutor) -> None:
        self.args, self.folder, self.pool = args, folder, pool
        size = [f"data.height={args.height}", f"data.width={args.height}"]
        clips = [f"data.fps={args.fps}", f"data.num_frames={args.num_frames}", f"data.decoder={args.decoder}"]
        shards = [f"data.clips_per_shard={args.clips_per_shard}", "data.allow_outside=true"]
        self.config = load_config(args.config, [*size, *clips, *shards])
        self.source = folder / "videos"
        self.source.mkdir()
        found = _link(args.videos, args.copies, self.source, self.config)
        limits = self.config.data.limits
        cases = {path: _case(path, args.height, limits) for path in progress_bar(found, unit="video", label="reading")}
        self.single = list(cases.values())
        self.cases = sorted(self.single * args.copies, key=lambda case: len(case.times), reverse=True)
        self.num_frames = sum(len(case.times) for case in self.cases)
        self._numbers = count()

    @property
    def limits(self) -> dict[str, Work]:
        """Decoding and resizing all frames by plain PyAV."""
        alone = partial(_plain, threads="AUTO")
        return {LIMIT: lambda: [alone(case) for case in self.cases], IN_POOL: lambda: self.in_pool(_plain)}

    def in_pool(self, work: Callable[[Case], object]) -> list[object]:
        return list(self.pool.map(work, self.cases))

    def engine(self) -> Any:
        return local_engine(self.args.workers, TIME_LIMIT)

    def new_folder(self) -> Path:
        return self.folder / f"out-{next(self._numbers)}"

    def preprocess(self, engine: Engine) -> None:
        """The whole of it, into a new folder."""
        out, encoders = str(self.new_folder()), encoder_source(self.config)
        preprocess(str(self.source), out, self.config, encoders, nullcontext(engine), False, "latents", _silent_bar, "")


def measure_preprocess(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows for the parts that are asked for, as they come.

    Raises:
        UserError: there are no videos, or one cannot be read.
    """
    parts = {"probe": probe_row, "decode": decode_row, "pipeline": pipeline_row}
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as folder, process_pool(args.workers) as pool:
        bench = Bench(args, Path(folder), pool)
        for name in args.parts:
            if name in parts:
                yield parts[name](bench)
        if {"stages", "engine"} & set(args.parts):
            units = recorded_units(bench)
            if "stages" in args.parts:
                yield from stage_rows(bench, units)
            if "engine" in args.parts:
                yield from engine_rows(bench, units)


def probe_row(bench: Bench) -> dict[str, Any]:
    """The probe against decoding all frames, of each video once, in this process."""
    limits, probes = bench.config.data.limits, bench.args.probes
    works: dict[str, Work] = {
        "ours": lambda: [probe(case.path, limits) for case in bench.single for _ in range(probes)],
        "a full decode": lambda: [decode_all(case.path, case.info) for case in bench.single],
    }
    taken = in_turns(works, bench.args.repeats, "probe")
    taken["ours"] = [each._replace(wall=each.wall / probes, cpu=each.cpu / probes) for each in taken["ours"]]
    counts = {"videos": len(bench.single), "frames": sum(len(case.times) for case in bench.single)}
    return speed_row("probe", "one process", counts, taken)


def decode_row(bench: Bench) -> dict[str, Any]:
    """All frames at the size, by `read_frames` in the processes of a pool."""
    ours = partial(_decode, decoder=bench.args.decoder, limits=bench.config.data.limits)
    taken = in_turns({"ours": lambda: bench.in_pool(ours), **bench.limits}, bench.args.repeats, "decode")
    return speed_row("decode", "decode, resize", {"videos": len(bench.cases), "frames": bench.num_frames}, taken)


def pipeline_row(bench: Bench) -> dict[str, Any]:
    """All of preprocessing in an engine that runs already, and in one that is started for it."""

    def with_start() -> None:
        with bench.engine() as engine:
            bench.preprocess(engine)

    with bench.engine() as engine:
        works: dict[str, Work] = {"ours": lambda: bench.preprocess(engine), "ours, engine not started": with_start}
        taken = in_turns({**works, **bench.limits}, bench.args.repeats, "pipeline")
    return speed_row("pipeline", "all of it", {"videos": len(bench.cases), "frames": bench.num_frames}, taken)


class Recorder:
    """An engine that remembers the units that another one runs, by their stage."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.units: dict[str, list[Unit]] = {}

    def run(self, units: Sequence[Unit], results: OutputFolder) -> Iterator[tuple[int, bytes]]:
        for unit in units:
            self.units.setdefault(unit.stage, []).append(unit)
        return self.engine.run(units, results)


def recorded_units(bench: Bench) -> dict[str, list[Unit]]:
    """Of the stages of a whole preprocessing of the videos."""
    with bench.engine() as engine:
        recorder = Recorder(engine)
        bench.preprocess(recorder)
    return {stage: recorder.units[stage] for stage in ("probe", "scan", "shard")}


def stage_rows(bench: Bench, units: dict[str, list[Unit]]) -> Iterator[dict[str, Any]]:
    """The units of each stage in a pool, against what they need of PyAV in the same pool."""
    plain = {
        "probe": _plain_probe,
        "scan": _plain_scan,
        "shard": partial(_plain, fps=bench.args.fps),
    }
    for stage, of_stage in units.items():
        works: dict[str, Work] = {
            "ours": lambda of_stage=of_stage: list(bench.pool.map(run_unguarded, of_stage)),
            "the same by plain PyAV": lambda stage=stage: bench.in_pool(plain[stage]),
            LIMIT: bench.limits[LIMIT],
        }
        counts = {"clips" if stage == "shard" else "videos": sum(unit.count for unit in of_stage)}
        taken = in_turns(works, bench.args.repeats, stage)
        yield speed_row("stages", stage, {**counts, "frames": bench.num_frames}, taken)


def engine_rows(bench: Bench, units: dict[str, list[Unit]]) -> Iterator[dict[str, Any]]:
    """The same units by the engine and by a plain pool, which keeps no results: running already, and to be started.

    What starts them has then been started, and has imported what they need, for both.
    """

    def by_engine(engine: Engine) -> None:
        results = output_folder(str(bench.new_folder()))
        for of_stage in units.values():
            for _ in engine.run(of_stage, results):
                pass

    def by_pool(pool: ProcessPoolExecutor) -> None:
        for of_stage in units.values():
            list(pool.map(run_unguarded, of_stage))

    def engine_from_start() -> None:
        with bench.engine() as engine:
            by_engine(engine)

    def pool_from_start() -> None:
        with process_pool(bench.args.workers) as pool:
            by_pool(pool)

    counts = {"clips": sum(unit.count for unit in units["shard"]), "frames": bench.num_frames}
    with bench.engine() as engine:
        running: dict[str, Work] = {"ours": lambda: by_engine(engine), "a plain pool": lambda: by_pool(bench.pool)}
        yield speed_row("engine", "running", counts, in_turns(running, bench.args.repeats, "engine"))
    started: dict[str, Work] = {"ours": engine_from_start, "a plain pool": pool_from_start}
    yield speed_row("engine", "to be started", counts, in_turns(started, bench.args.repeats, "engine's start"))


def run_unguarded(unit: Unit) -> bytes:
    return unit.work(Guard())


def _link(videos: Sequence[Path], copies: int, folder: Path, config: Config) -> list[Path]:
    """Links to the files, and to those of the folders, `copies` of each; gives the files."""
    found: list[Path] = []
    for path in videos:
        if path.is_dir():
            found += [Path(video.place.location) for video in discover(path, config.data)[0]]
        else:
            found.append(path.resolve())
    for number, path in enumerate(found):
        for copy in range(copies):
            (folder / f"{number:05d}-{copy}{path.suffix}").symlink_to(path)
    return found


def _case(path: Path, height: int, limits: Limits) -> Case:
    try:
        info = probe(path, limits)
    except VideoError as error:
        raise UserError(f"{path}: {error}") from error
    return Case(path, info, tuple(frame_times(path, info)), cover(info.size, (height, height)))


def _decode(case: Case, decoder: Any, limits: Limits) -> None:
    found = sum(1 for _ in read_frames(case.path, case.info, case.times, case.size, decoder, limits))
    if found != len(case.times):
        raise UserError(f"{case.path}: {decoder} gives {found} frames, and PyAV {len(case.times)}")


def _plain(case: Case, threads: Any = "NONE", fps: float | None = None) -> None:
    decode_and_resize(case.path, case.info, case.size, threads, fps)


def _plain_probe(case: Case) -> None:
    decode_first(case.path)


def _plain_scan(case: Case) -> None:
    decode_and_resize(case.path, case.info, working_size(case.info.size), "NONE", skip_frame="NONREF")


def _silent_bar(label: str, counted: str, total: int) -> Any:
    return progress_bar(total=total, unit=counted, label=label, shown=False)
