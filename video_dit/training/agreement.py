"""All ranks start alike, or none does: config, code, versions and clips, compared before the first collective."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from torch.distributed import DistStoreError, Store

from video_dit.config import WHERE_AND_HOW, Config
from video_dit.errors import RankError, UserError
from video_dit.run_folder import versions

T = TypeVar("T")

POLL = 0.1
"""Seconds between looks at what other ranks have done."""

HEARING = 10.0
"""Seconds after which a rank that has not heard why all end is taken for dead."""

Facts = Mapping[str, Any]
"""What ranks must have in common, as JSON, by the names that a user knows it by."""


def config_facts(config: Config) -> Facts:
    """Each key with its value; where encoders are, and how they compute, may differ."""
    facts = {}
    for table, values in config.model_dump(mode="json").items():
        names = (
            {f"{table}.{key}": value for key, value in values.items()} if isinstance(values, dict) else {table: values}
        )
        facts |= {name: value for name, value in names.items() if name not in WHERE_AND_HOW}
    return facts


def code_facts(folders: Iterable[Path]) -> Facts:
    """The versions of what decides results, and a digest of the Python files in each folder."""
    facts = {f"version of {name}": version for name, version in versions().items()}
    for folder in folders:
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
        facts[f"code in {folder.name}/"] = digest.hexdigest()[:12]
    return facts


def agree(read: Callable[[], tuple[T, Facts]], store: Store, rank: int, num_ranks: int) -> T:
    """What this rank reads, once it is known that all ranks could read theirs, and that the facts of it are the same.

    Args:
        read: what to go on with, and the facts of it.
        store: of all ranks.
        rank, num_ranks: this one, and how many.

    Raises:
        UserError: on every rank the same: what one could not read, or the first fact that differs from rank 0's.
        RankError: a rank has said nothing for as long as the store waits.
    """
    try:
        mine, facts = read()
        mistake = None
    except (UserError, OSError) as error:  # a mistake, or a file that is not what it should be
        facts, mistake = {}, str(error) or repr(error)
    host = socket.gethostname()
    if rank == 0:
        store.set("agreement/first", json.dumps([host, facts]))
        verdicts = (_heard(store, f"agreement/{other}", f"rank {other}") for other in range(1, num_ranks))
        store.set("agreement", mistake or next(filter(None, verdicts), ""))
    else:
        first_host, first_facts = json.loads(_heard(store, "agreement/first", "rank 0"))
        who = f"rank {rank} on {host}"
        verdict = f"{who}: {mistake}" if mistake else _difference(who, facts, f"rank 0 on {first_host}", first_facts)
        store.set(f"agreement/{rank}", verdict)
    if problem := _heard(store, "agreement", "rank 0, or one that it waits for,"):
        _end_together(problem, "agreement", store, rank, num_ranks)
    return mine


def _end_together(mistake: str, key: str, store: Store, rank: int, num_ranks: int) -> NoReturn:
    """The store ends with rank 0, so that this one does not end before the others have heard why.

    Raises:
        UserError: on every rank the same.
    """
    heard = f"{key}/heard"
    store.add(heard, 1)
    end = time.monotonic() + HEARING
    while rank == 0 and store.add(heard, 0) < num_ranks and time.monotonic() < end:
        time.sleep(POLL)
    raise UserError(mistake)


def _heard(store: Store, key: str, who: str) -> str:
    try:
        return store.get(key).decode()
    except DistStoreError as error:
        raise RankError(
            f"{who} has not said for {store.timeout.total_seconds() / 60:g} minutes whether it can begin: it has ended "
            "or hangs, look at what it printed"
        ) from error


def on_first_rank(work: Callable[[], object], name: str, store: Store, rank: int, num_ranks: int) -> None:
    """Does it on rank 0, however long it takes, while the others wait.

    Args:
        work: what to do.
        name: of it, one that no other work has.
        store: of all ranks.
        rank, num_ranks: this one, and how many.

    Raises:
        UserError: on every rank the same, which the work has raised.
    """
    key = f"first/{name}"
    if rank == 0:
        try:
            work()
            store.set(key, "")
        except UserError as error:
            store.set(key, str(error))
    while not store.check([key]):
        time.sleep(POLL)
    if mistake := store.get(key).decode():
        _end_together(mistake, key, store, rank, num_ranks)


def _difference(who: str, facts: Facts, first: str, first_facts: Facts) -> str:
    facts = json.loads(json.dumps(facts))
    for name in {**first_facts, **facts}:
        if facts.get(name) != first_facts.get(name):
            return (
                f"{who} has {name} = {facts.get(name)!r}, and {first} has {first_facts.get(name)!r}: "
                "start all ranks with the same arguments, config, data and code"
            )
    return ""
