"""Preprocessing gives the same bytes whoever works, and whatever dies meanwhile."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import fsspec
import psutil
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from launch import REPOSITORY, Forked, cpu_environment, start, wait_for
from messy_videos import FPS, GATE, SETTINGS, make_messy_videos, moving
from preprocessed import preprocess_here

from data.dataset import ClipDataset
from data.dataset_info import DatasetInfo
from data.engine import cluster_engine
from data.engine.guard import MAX_DEATHS
from data.output import LocalOutput
from data.video import write_mp4
from video_dit.config import load_config
from video_dit.errors import UserError

PROGRAM = REPOSITORY / "scripts/preprocess.py"
WITH_SCORER = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_messy_videos(tmp_path_factory.mktemp("messy") / "videos")


@pytest.fixture(scope="module")
def expected(videos: Path) -> Files:
    """What one process makes that nobody disturbs."""
    out = videos.parent / "shards"
    preprocess_here(videos, out, load_config(None, SETTINGS))
    found = files_of(out)
    assert sum(name.startswith("shard-4x32x32") for name in found) > 2
    assert any(name.startswith("shard-4x20x44") for name in found)
    return found


def files_of(out: Path) -> Files:
    """By name; the report without the command and the folder, which it shows."""
    found = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    report = re.sub(rb'<pre id="command">.*?</pre>', b"", found["report.html"], flags=re.DOTALL)
    return {**found, "report.html": report.replace(os.fsencode(out), b"OUT")}


def preprocess(source: Path, out: Path, *options: object, gate: Path | None = None) -> Forked:
    environment = cpu_environment({**WITH_SCORER, **({GATE: str(gate)} if gate else {})})
    return Forked(PROGRAM, [source, "--out", out, *options, *SETTINGS], environment)


def finish(process: Forked) -> str:
    """What it wrote to stderr: lines of progress, and nothing that a user would not understand."""
    code, output, errors = process.wait(300)
    assert code == 0, output + errors
    assert all(re.match(r"[a-z ]+: [\d,]+ of [\d,]+, ", line) for line in errors.splitlines()), errors
    return errors


def times_of(results: Path) -> dict[str, int]:
    """When each finished unit's result was written."""
    found = (path for path in results.glob("*/*/*") if path.suffix != ".tmp")
    return {str(path.relative_to(results)): path.stat().st_mtime_ns for path in found}


@contextmanager
def closed_gate(path: Path) -> Iterator[Path]:
    """A pipe at which scorers wait."""
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR)
    try:
        yield path
    finally:
        path.with_suffix(".open").touch()
        path.with_suffix(".open").replace(path)
        os.close(held)


def who_waits_at(gate: Path) -> int:
    """The process that came last to the gate since this was asked."""
    file = Path(f"{gate}.pid")
    number = int(wait_for(lambda: file.exists() and file.read_text().endswith("\n") and file.read_text()))
    file.unlink()
    return number


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_number_of_workers_makes_the_same_bytes(
    videos: Path, expected: Files, tmp_path: Path, workers: int
) -> None:
    finish(preprocess(videos, tmp_path / "shards", "--workers", workers))
    assert files_of(tmp_path / "shards") == expected


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_is_killed_again_and_again_goes_on_where_it_was(
    videos: Path, expected: Files, tmp_path: Path
) -> None:
    """By kill -9, and while it scores by Ctrl-C; whenever shards are seen, they are whole."""
    out = tmp_path / "shards"
    done: dict[str, int] = {}

    def has_come_to(*names: str) -> bool:
        shards = {path.name: path.read_bytes() for path in out.glob("shard-*.arrow")}
        assert shards.items() <= expected.items()
        return all(list(out.glob(name)) for name in names)

    def assert_nothing_is_redone() -> dict[str, int]:
        now = times_of(out / "work")
        assert done.items() <= now.items()
        return now

    with closed_gate(tmp_path / "gate") as gate:
        for stage in ("probe", "scan", "score"):
            Path(f"{gate}.pid").unlink(missing_ok=True)  # of a process that came there before it was killed
            process = preprocess(videos, out, "--workers", 2, gate=gate)
            if stage == "score":
                who_waits_at(gate)
            else:
                wait_for(lambda stage=stage: has_come_to(f"work/{stage}/*/*[!.][!t][!m][!p]"))
            done = stop(process, signal.SIGINT if stage == "score" else signal.SIGKILL) or assert_nothing_is_redone()
    for sign in ("shard-*.arrow", "report.html"):
        process = preprocess(videos, out, "--workers", 2)
        wait_for(lambda sign=sign: has_come_to(sign))
        stop(process, signal.SIGKILL)
        done = assert_nothing_is_redone()
    finish(preprocess(videos, out, "--workers", 2))
    assert_nothing_is_redone()
    assert files_of(out) == expected
    assert not list(out.rglob("*.tmp"))


def stop(process: Forked, sign: signal.Signals) -> None:
    """And all that it has started ends, too."""
    children = psutil.Process(process.pid).children(recursive=True)
    if sign == signal.SIGINT:  # a terminal sends it to all of them
        for child in children:
            child.send_signal(sign)
    process.send_signal(sign)
    code, _, errors = process.wait(120)
    if sign == signal.SIGINT:
        assert code == 130
        assert "Traceback" not in errors
        assert errors.splitlines()[-1] == "interrupted"
    assert children
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_is_interrupted_while_its_workers_start_ends_with_a_word(videos: Path, tmp_path: Path) -> None:
    process = preprocess(videos, tmp_path / "shards", "--workers", 2)
    wait_for(psutil.Process(process.pid).net_connections)  # at which it waits for its workers
    stop(process, signal.SIGINT)


@pytest.mark.slow
@pytest.mark.distributed
def test_workers_that_are_killed_cost_nothing(videos: Path, expected: Files, tmp_path: Path) -> None:
    with closed_gate(tmp_path / "gate") as gate:
        process = preprocess(videos, tmp_path / "shards", "--workers", 2, gate=gate)
        for _ in range(MAX_DEATHS - 1):
            os.kill(who_waits_at(gate), signal.SIGKILL)
        who_waits_at(gate)
    finish(process)
    assert files_of(tmp_path / "shards") == expected


@contextmanager
def cluster(folder: Path, num_workers: int) -> Iterator[str]:
    """A scheduler and its workers as a user starts them; gives the address."""
    file = folder / "scheduler.json"
    host = ("--host", "127.0.0.1", "--no-dashboard")
    processes = [
        start("-m", "distributed.cli.dask_scheduler", "--port", 0, *host, "--scheduler-file", file),
        start(
            "-m", "distributed.cli.dask_worker", "--nthreads", 1, "--nworkers", num_workers, *host,
            "--scheduler-file", file, environment=WITH_SCORER,
        ),
    ]  # fmt: skip
    try:
        yield wait_for(lambda: file.exists() and re.search(r"tcp://[\d.:]+", file.read_text())).group()
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_cluster_makes_the_same_and_what_hangs_or_crashes_costs_its_clip_alone(
    videos: Path, expected: Files, tmp_path: Path
) -> None:
    bad = tmp_path / "videos"
    shutil.copytree(videos, bad)
    for name, channel in (("red", 0), ("blue", 2)):
        frames = moving(20 + channel, 8)
        frames[:4, :, :, channel] = 255
        write_mp4(bad / f"{name}.mp4", frames, FPS)
    with cluster(tmp_path, num_workers=2) as address:
        finish(preprocess(videos, tmp_path / "shards", "--scheduler", address))
        process = preprocess(bad, tmp_path / "more", "--scheduler", address, "--time-limit", 6)
        finish(process)
    assert files_of(tmp_path / "shards") == expected
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "more/clips.parquet").to_pylist()}
    usual = pq.read_table(tmp_path / "shards/clips.parquet").to_pylist()
    names = ("drop", "rule", "reason", "score", "mean", "captions")
    assert all(rows[row["id"]].get(name) == row.get(name) for row in usual for name in names)
    others = {name: rows[name]["reason"] for name in rows.keys() - {row["id"] for row in usual}}
    assert others == {
        "blue.mp4#0": "took longer than 6 seconds, which --time-limit allows",
        "blue.mp4#1": None,
        "red.mp4#0": f"crashes the process that works on it (tried {MAX_DEATHS} times)",
        "red.mp4#1": None,
    }
    assert DatasetInfo.read(tmp_path / "more").num_clips == DatasetInfo.read(tmp_path / "shards").num_clips + 2


@pytest.mark.distributed
def test_a_cluster_that_cannot_be_used_is_refused() -> None:
    with (
        closing(LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0")) as threaded,
        pytest.raises(UserError, match=r"workers with several threads .* --nthreads 1"),
        cluster_engine(threaded.scheduler_address, 1.0),
    ):
        raise AssertionError
    with (
        pytest.raises(UserError, match="nowhere cannot be reached: start one with 'dask scheduler'"),
        cluster_engine("nowhere", 1.0),
    ):
        raise AssertionError


class KilledError(BaseException):
    """A process that ended."""


def test_a_run_that_ends_at_any_write_or_deletion_goes_on_to_the_same(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first, then at the second of what is left, and so on, until it is done; other shards were there before.

    Meanwhile training finds either, with the empty prompt of their text encoder, and tables are replaced at the end.
    """
    source, out = tmp_path / "videos", tmp_path / "shards"
    source.mkdir()
    for name in ("a.mp4", "a.txt", "two_shots.mp4", "wide_10.mp4", "text.mp4"):
        shutil.copy2(videos / name, source / name)
    config, old = (
        load_config(None, SETTINGS),
        load_config(None, [*SETTINGS, "data.clips_per_shard=2", "text_encoder.max_length=5"]),
    )
    preprocess_here(source, tmp_path / "expected/shards", config)
    expected = files_of(tmp_path / "expected/shards")
    preprocess_here(source, out, old)
    shutil.rmtree(out / "work/picture")
    left, changed = 0, []

    def ending(change: Callable[..., None]) -> Callable[..., None]:
        def until_none_is_left(folder: LocalOutput, name: str, *args: object, **options: object) -> None:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            changed.append((folder.path, name))
            change(folder, name, *args, **options)

        return until_none_is_left

    for change in ("write", "delete"):
        monkeypatch.setattr(LocalOutput, change, ending(getattr(LocalOutput, change)))
    for allowed in range(50):
        left = allowed
        try:
            preprocess_here(source, out, config, overwrite=True)
        except KilledError:
            dataset = ClipDataset(out, seed=0)
            assert dataset.empty_prompt().embeds.shape[1] == dataset.info.tables["text_encoder"]["max_length"]
            continue
        break
    first = next(i for i, (path, name) in enumerate(changed) if path == out and not name.startswith("shard-"))
    assert {path for path, _ in changed[first:]} == {out}
    assert 5 < allowed < 49
    assert files_of(out) == expected


def test_shards_that_are_gone_are_made_again(videos: Path, tmp_path: Path) -> None:
    """Removed by a person, or by a run with other settings."""
    out, config = tmp_path / "shards", load_config(None, SETTINGS)
    preprocess_here(videos, out, config)
    expected = files_of(out)
    min(out.glob("shard-*")).unlink()
    assert preprocess_here(videos, out, config) is not None
    assert files_of(out) == expected
    preprocess_here(videos, out, load_config(None, [*SETTINGS, "data.clips_per_shard=2"]), overwrite=True)
    preprocess_here(videos, out, config, overwrite=True)
    assert files_of(out) == expected
    assert preprocess_here(videos, out, config) is None


def test_a_folder_behind_a_url_gets_the_same(videos: Path, expected: Files, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    out = tmp_path / "shards"
    config = load_config(None, SETTINGS)
    try:
        preprocess_here(videos, "memory://bucket/shards", config)
        fs.get("/bucket/shards/", str(out), recursive=True)
        assert preprocess_here(videos, "memory://bucket/shards", config) is None
    finally:
        fs.rm("/", recursive=True)
    found = files_of(out)
    assert {**found, "report.html": found["report.html"].replace(b"memory://bucket/shards", b"OUT")} == expected
