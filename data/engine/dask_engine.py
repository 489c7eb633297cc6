"""Units on Dask's distributed: processes of this machine, or of a cluster whose scheduler is given."""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin, as_completed

from data.engine.engine import known_results
from data.engine.guard import WatchingGuard
from data.engine.units import Unit
from data.forkserver import interrupts_wait, start_forkserver
from data.output import OutputFolder
from video_dit.errors import UserError

ALLOWED_FAILURES = 10_000
"""Deaths of workers that a unit may see; the guard counts them by item and gives up on an item much sooner."""

SATURATION = 1.0
"""Units that a worker holds for each of its threads: no more, as what it holds is lost with it."""

_QUIET = {
    "distributed.worker.profile.enabled": False,  # samples the stack of the work
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.scheduler.active-memory-manager.start": False,  # workers keep no results
}
"""What Dask's processes do beside the work, and nobody looks at: a twentieth of a processor."""

AHEAD = 2
"""Tasks that are handed to the scheduler for each worker."""

MAX_UNITS, TASK_SECONDS = 64, 2.0
"""Short units are handed over several at a time, as a task itself takes milliseconds: as many as take so long, and
fewer towards the end, so that all workers are busy."""

CONNECT_SECONDS, START_SECONDS = 10, 60
"""For the scheduler of a cluster to answer, and for a worker to be there, at first and when the last one has gone."""

LOOK_SECONDS = 1.0
"""Between looks at whether anybody works, while nothing comes."""

_NO_PROCESS = (
    f"no process was there to work for {START_SECONDS} seconds: there may be too little memory for so many: give "
    "--workers fewer, and the same command goes on where it was"
)


class DaskEngine:
    """
    Args:
        client: of a scheduler whose workers have one thread each.
        time_limit: seconds for one item of a unit, such as a video.
        nobody: what a user is told where there are no workers, or no scheduler.
    """

    def __init__(self, client: Client, time_limit: float, nobody: str) -> None:
        self._client, self._time_limit, self._nobody = client, time_limit, nobody
        self._run = uuid.uuid4().hex

    def run(self, units: Sequence[Unit], results: OutputFolder) -> Iterator[tuple[int, bytes]]:
        waiting = []
        for index, result in known_results(units, results):
            if result is None:
                waiting.append(index)
            else:
                yield index, result
        waiting.reverse()
        indices: dict[str, list[int]] = {}
        running = as_completed(with_results=True, raise_errors=False)
        num_units = 1
        try:
            while waiting or not running.is_empty():
                ahead = AHEAD * max(1, self._num_workers())  # the last one's successor may be on its way
                while waiting and running.count() < ahead:
                    task = [waiting.pop() for _ in range(min(num_units, -(-len(waiting) // ahead)))]
                    first = units[task[0]]
                    future = self._client.submit(
                        run_units, [units[index] for index in task], results, self._run, self._time_limit,
                        key=f"{first.stage}-{first.key}-{self._run}",  # another run may write the same elsewhere
                    )  # fmt: skip
                    indices[future.key] = task
                    running.add(future)
                self._wait(running)
                future, answer = next(running)
                if isinstance(answer, CancelledError):  # as all are when the scheduler is lost
                    raise UserError(self._nobody) from answer
                if not isinstance(answer, Done):  # what sys.exc_info gives
                    raise answer[1].with_traceback(answer[2])
                num_units = max(1, min(MAX_UNITS, int(TASK_SECONDS / answer.seconds * len(answer.results))))
                yield from zip(indices.pop(future.key), answer.results, strict=True)
        finally:
            running.clear()

    def _wait(self, running: as_completed) -> None:
        """Until a task is done.

        Raises:
            UserError: there has been nobody to work for `START_SECONDS`.
        """
        seen = time.monotonic()
        while True:
            with running.thread_condition:
                if running.thread_condition.wait_for(running.has_ready, LOOK_SECONDS):
                    return
            if self._num_workers():
                seen = time.monotonic()
            elif time.monotonic() - seen > START_SECONDS:
                raise UserError(self._nobody)

    def _num_workers(self) -> int:
        try:
            return len(self._client.ncores())
        except OSError as error:
            raise UserError(self._nobody) from error


class Done(NamedTuple):
    """The results of the units of a task, and the seconds that they took."""

    results: list[bytes]
    seconds: float


def run_units(units: Sequence[Unit], results: OutputFolder, run: str, time_limit: float) -> Done:
    """In a worker."""
    start = time.perf_counter()
    found = [run_unit(unit, results, run, time_limit) for unit in units]
    return Done(found, time.perf_counter() - start)


def run_unit(unit: Unit, results: OutputFolder, run: str, time_limit: float) -> bytes:
    """In a worker. Another one may have finished the unit in the meantime, and been lost before it said so."""
    result = unit.known_result(results)
    if result is None:
        guard = WatchingGuard(results, unit.path, run, time_limit)
        result = unit.work(guard)
        unit.keep(result, results)
        guard.close()
    return result


class _OneGpuEach(WorkerPlugin):
    """Shows each worker one GPU, in turns; also those that replace others."""

    def __init__(self, gpus: Sequence[str]) -> None:
        self._gpus = gpus

    def setup(self, worker: Worker) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = self._gpus[int(worker.name) % len(self._gpus)]


@contextmanager
def local_engine(num_workers: int, time_limit: float, num_gpus: int = 0) -> Iterator[DaskEngine]:
    """Processes of this machine, with one thread each.

    Args:
        num_workers: how many.
        time_limit: seconds for one item of a unit, such as a video.
        num_gpus: that they share.
    """
    settings = _QUIET | {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        "distributed.scheduler.worker-saturation": SATURATION,
        "distributed.nanny.pre-spawn-environ": {},  # it would change this process's
        "distributed.admin.log-format": "%(message)s",
        "distributed.worker.multiprocessing-method": "forkserver",
    }
    with dask.config.set(settings), ExitStack() as stack:
        start_forkserver("data")
        with interrupts_wait():  # what has been started can be ended
            cluster = LocalCluster(
                n_workers=num_workers, threads_per_worker=1, processes=True, memory_limit=0, silence_logs="CRITICAL",
                dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},  # any port: None is 8787
            )  # fmt: skip
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster, direct_to_workers=True))
        if num_gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
            client.register_plugin(_OneGpuEach(visible.split(",")))
        yield DaskEngine(client, time_limit, _NO_PROCESS)


@contextmanager
def cluster_engine(address: str, time_limit: float) -> Iterator[DaskEngine]:
    """The workers of a scheduler that runs already.

    Raises:
        UserError: it cannot be reached, has no workers, or workers with more than one thread.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--scheduler {address} cannot be reached: start one with 'dask scheduler', and name the address that it "
            "prints, such as tcp://HOST:8786"
        ) from error
    nobody = (
        f"--scheduler {address} has no workers, or does not answer: see that it runs, start workers with 'dask worker "
        f"{address} --nthreads 1 --nworkers auto', and the same command goes on where it was"
    )
    with client:
        try:
            client.wait_for_workers(1, timeout=START_SECONDS)
        except TimeoutError as error:
            raise UserError(nobody) from error
        _refuse_threads(client, address)
        client.run_on_scheduler(_forgive_deaths)
        yield DaskEngine(client, time_limit, nobody)


def _refuse_threads(client: Client, address: str) -> None:
    threaded = [worker for worker, threads in client.nthreads().items() if threads > 1]
    if threaded:
        raise UserError(
            f"--scheduler {address} has workers with several threads ({threaded[0]}): start them with --nthreads 1, as "
            "a video that hangs ends its whole process"
        )


def _forgive_deaths(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = ALLOWED_FAILURES
    dask_scheduler.WORKER_SATURATION = SATURATION
