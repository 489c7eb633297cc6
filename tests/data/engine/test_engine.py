"""Units survive what their items do to the processes that work on them."""

import ctypes
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import Client, Future, LocalCluster
from distributed.comm import CommClosedError

from data.engine import Guard, InProcess, ItemError, Unit, dask_engine, local_engine, unit_key
from data.engine.dask_engine import DaskEngine
from data.engine.guard import MAX_DEATHS, WatchingGuard
from data.output import LocalOutput
from video_dit.errors import UserError

NUM_ITEMS = 3


def work(number: int, guard: Guard) -> bytes:
    """Unit 3 hangs in its second item, unit 5 ends its process there, unit 7 breaks its memory."""
    done = []
    for item in range(NUM_ITEMS):
        try:
            with guard.item(f"{number}-{item}"):
                if (number, item) == (3, 1):
                    threading.Event().wait()
                if (number, item) == (5, 1):
                    os._exit(1)
                if (number, item) == (7, 1):
                    ctypes.string_at(0)
                done.append("done")
        except ItemError as error:
            done.append(str(error))
    return json.dumps(done).encode()


def fail(guard: Guard) -> bytes:
    raise UserError("the model is missing")


def enter_and_die(folder: Path, item: str, run: str) -> None:
    with WatchingGuard(LocalOutput(folder), "test/ab/abc", run, 10.0).item(item):
        os._exit(1)


def units(numbers: range) -> list[Unit]:
    return [Unit("test", unit_key("test", number), partial(work, number)) for number in numbers]


def visible_gpu(seen: Path, guard: Guard) -> bytes:
    """Waits, for a time, until two processes have said which GPU they see."""
    mine = os.environ["CUDA_VISIBLE_DEVICES"]
    (seen / mine).touch()
    deadline = time.monotonic() + 60
    while len(list(seen.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return mine.encode()


@pytest.mark.slow
def test_each_worker_sees_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    (tmp_path / "seen").mkdir()
    several = [Unit("gpu", unit_key("gpu", number), partial(visible_gpu, tmp_path / "seen")) for number in range(2)]
    with local_engine(num_workers=2, time_limit=60.0, num_gpus=2) as engine:
        found = [result for _, result in engine.run(several, LocalOutput(tmp_path / "results"))]
    assert sorted(found) == [b"5", b"7"]


@pytest.mark.slow
def test_what_hangs_or_crashes_costs_its_item_alone(tmp_path: Path) -> None:
    folder = LocalOutput(tmp_path)
    with local_engine(num_workers=2, time_limit=2.0) as engine:
        results = {index: json.loads(result) for index, result in engine.run(units(range(12)), folder)}
        with pytest.raises(UserError, match="the model is missing"):
            list(engine.run([Unit("test", unit_key("test", "fail"), fail)], folder))
    hung = "took longer than 2 seconds, which --time-limit allows"
    crashed = f"crashes the process that works on it (tried {MAX_DEATHS} times)"
    expected = {3: ["done", hung, "done"], 5: ["done", crashed, "done"], 7: ["done", crashed, "done"]}
    assert results == {number: expected.get(number, ["done"] * NUM_ITEMS) for number in range(12)}
    again = InProcess().run(units(range(12)), folder)  # which would hang if it did anything
    assert {index: json.loads(result) for index, result in again} == results
    assert not list(tmp_path.rglob("*.tmp"))
    assert list((tmp_path / "attempts").iterdir()) == [tmp_path / "attempts" / unit_key("test", "fail")]


@pytest.fixture
def idle() -> Iterator[tuple[LocalCluster, Client]]:
    """A cluster without workers, in this process."""
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


@pytest.mark.distributed
@pytest.mark.parametrize("lost", ["workers", "connection", "scheduler"])
def test_where_nobody_works_a_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: tuple[LocalCluster, Client], lost: str
) -> None:
    _, client = idle
    monkeypatch.setattr(dask_engine, "START_SECONDS", 0.0)
    monkeypatch.setattr(dask_engine, "LOOK_SECONDS", 0.01)

    def closed() -> dict[str, int]:
        raise CommClosedError

    def submit(*args: object, **options: object) -> Future:
        future = Client.submit(client, *args, **options)
        client.cancel(future, force=True)  # as the client does with all when it has lost its scheduler
        return future

    if lost == "connection":
        monkeypatch.setattr(client, "ncores", closed)
    if lost == "scheduler":
        monkeypatch.setattr(client, "submit", submit)
    with pytest.raises(UserError, match="nobody is there"):
        list(DaskEngine(client, 10.0, "nobody is there").run(units(range(2)), LocalOutput(tmp_path)))


@pytest.mark.distributed
def test_a_worker_that_comes_late_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: tuple[LocalCluster, Client]
) -> None:
    cluster, client = idle
    monkeypatch.setattr(client, "ncores", lambda: cluster.scale(1) or {})
    results = dict(DaskEngine(client, 10.0, "").run(units(range(2)), LocalOutput(tmp_path)))
    assert [json.loads(results[index]) for index in range(2)] == [["done"] * NUM_ITEMS] * 2


def test_an_item_is_forgiven_deaths_that_came_from_outside(tmp_path: Path) -> None:
    """Processes that were killed while they worked on it: as many as may be, and those of an earlier run."""

    def die_in(item: str, run: str) -> None:
        process = multiprocessing.get_context("spawn").Process(target=enter_and_die, args=(tmp_path, item, run))
        process.start()
        process.join()
        assert process.exitcode == 1

    for _ in range(MAX_DEATHS):
        die_in("a", "first run")
    for _ in range(MAX_DEATHS - 1):
        die_in("a", "second run")
    with WatchingGuard(LocalOutput(tmp_path), "test/ab/abc", "second run", 10.0).item("a"):
        pass
    die_in("a", "second run")
    guard = WatchingGuard(LocalOutput(tmp_path), "test/ab/abc", "second run", 10.0)
    with guard.item("b"):
        pass
    with pytest.raises(ItemError, match="crashes"), guard.item("a"):
        raise AssertionError
    guard.close()
    assert not list((tmp_path / "attempts").iterdir())


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(content, id=name)
        for name, content in {
            "empty": b"", "zeros": bytes(60), "cut": b'{"run": "ru', "list": b"[]", "keys": b"{}", "bytes": b"\xff"
        }.items()
    ],
)  # fmt: skip
def test_a_note_that_is_damaged_is_none(tmp_path: Path, left: bytes) -> None:
    """As a machine leaves it that goes down."""
    folder = LocalOutput(tmp_path)
    folder.write("attempts/abc", left)
    for _ in range(MAX_DEATHS):
        WatchingGuard(folder, "test/ab/abc", "run", 10.0)
    with pytest.raises(UserError, match="processes died"):
        WatchingGuard(folder, "test/ab/abc", "run", 10.0)


def test_processes_that_die_at_no_item_end_the_run(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS):
        WatchingGuard(LocalOutput(tmp_path), "test/ab/abc", "run", 10.0)
    with pytest.raises(UserError, match="too little memory for so many: give --workers fewer"):
        WatchingGuard(LocalOutput(tmp_path), "test/ab/abc", "run", 10.0)


def test_a_key_depends_on_the_stage_and_on_every_part() -> None:
    keys = [unit_key("a", 1), unit_key("b", 1), unit_key("a", 2), unit_key("a", 1, None), unit_key("a", {"x": 1})]
    assert len(set(keys)) == len(keys)
    assert unit_key("a", {"x": 1, "y": (2,)}) == unit_key("a", {"y": [2], "x": 1})
