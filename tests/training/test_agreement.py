"""That ranks which would not compute the same run do not start it, and that one message says why."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from conftest import TINY
from launch import ends, start_ranks, train
from torch.distributed import HashStore

from video_dit.config import load_config
from video_dit.errors import RankError, UserError
from video_dit.training.agreement import Facts, agree, code_facts, config_facts, on_first_rank

SAME = {"training.steps": 5, "data.split": None, "shape": (1, 2)}


def outcomes(*ranks: Facts | Exception) -> list[str]:
    """What each rank, of these facts or with this mistake, goes on with or raises."""
    store = HashStore()

    def start(rank: int) -> str:
        def read() -> tuple[str, Facts]:
            if isinstance(ranks[rank], Exception):
                raise ranks[rank]
            return f"{rank} goes on", ranks[rank]

        try:
            return agree(read, store, rank, len(ranks))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(start, range(len(ranks))))


def test_ranks_that_agree_go_on() -> None:
    assert outcomes(SAME, dict(SAME), dict(SAME)) == ["0 goes on", "1 goes on", "2 goes on"]
    assert outcomes(SAME) == ["0 goes on"]


def test_the_first_difference_is_told_to_all() -> None:
    said = outcomes(SAME, dict(SAME), {**SAME, "shape": (1, 3), "training.steps": 6}, {})
    assert len(set(said)) == 1
    assert said[0].startswith("rank 2 on ")
    assert "has training.steps = 6, and rank 0 on " in said[0]
    assert "has 5: start all ranks with the same" in said[0]
    assert "has more = 1, and rank 0" in outcomes(SAME, {**SAME, "more": 1})[0]


def test_what_one_rank_cannot_read_is_told_to_all() -> None:
    mistake = UserError("/shards is not there")
    of_another = outcomes(SAME, mistake, mistake)
    assert len(set(of_another)) == 1
    assert of_another[0].startswith("rank 1 on ")
    assert of_another[0].endswith(": /shards is not there")
    assert outcomes(mistake, mistake) == ["/shards is not there"] * 2


def test_a_file_that_is_not_what_it_should_be_is_told_to_all() -> None:
    damaged = IsADirectoryError(21, "Is a directory", "/shards/dataset.json")
    assert outcomes(damaged, SAME) == ["[Errno 21] Is a directory: '/shards/dataset.json'"] * 2


def test_a_rank_that_says_nothing_is_named() -> None:
    store = HashStore()
    store.set_timeout(timedelta(milliseconds=30))
    with pytest.raises(RankError, match=r"rank 1 has not said for 0.0005 minutes whether it can begin: it has ended"):
        agree(lambda: (None, SAME), store, 0, 2)
    with pytest.raises(RankError, match="rank 0, or one that it waits for, has not said"):
        agree(lambda: (None, SAME), store, 1, 2)


def test_all_wait_for_the_first_rank_and_hear_of_its_mistake() -> None:
    def begin(work: Callable[[], object]) -> list[str]:
        store = HashStore()

        def start(rank: int) -> str:
            try:
                on_first_rank(partial(work, rank), "work", store, rank, 3)
            except UserError as error:
                return str(error)
            return "goes on"

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(start, (1, 2, 0)))

    done = []
    assert begin(done.append) == ["goes on"] * 3
    assert done == [0]

    def fail(rank: int) -> None:
        raise UserError(f"rank {rank} may not write")

    assert begin(fail) == ["rank 0 may not write"] * 3


def test_every_key_counts_but_where_things_are() -> None:
    def facts(*overrides: str) -> Facts:
        return config_facts(load_config(None, overrides))

    assert facts("autoencoder.tile_size=[8, 256, 256]") == facts()
    for override in ("seed=1", "training.num_workers=3", "deepspeed.zero_optimization.stage=1"):
        name = override.partition("=")[0]
        differing = {key for key, value in facts(override).items() if value != facts().get(key)}
        assert differing == {"deepspeed.zero_optimization" if name.startswith("deepspeed") else name}


def test_the_code_is_known_by_what_its_files_hold(tmp_path: Path) -> None:
    def digest() -> object:
        return code_facts([tmp_path])[f"code in {tmp_path.name}/"]

    (tmp_path / "a.py").write_text("a = 1")
    first = digest()
    (tmp_path / "notes.txt").write_text("nothing")
    assert digest() == first
    (tmp_path / "a.py").write_text("a = 2")
    second = digest()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, digest()}) == 3


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_with_different_configs_end_with_one_message(tiny_shards: Path, tmp_path: Path) -> None:
    own = {rank: [f"training.learning_rate={rate}"] for rank, rate in enumerate((0.001, 0.002))}
    processes = start_ranks(2, "--data", tiny_shards, "--run", tmp_path / "run", *TINY, own=own)
    codes, said = zip(*ends(processes), strict=True)
    assert codes == (2, 2), said
    assert "rank 1 on " in said[0]
    assert "has training.learning_rate = 0.002, and rank 0 on " in said[0]
    assert "error" not in said[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_must_go_on_otherwise_ends_all_ranks_with_one_message(tiny_shards: Path, tmp_path: Path) -> None:
    train(2, "--data", tiny_shards, "--run", tmp_path, *TINY, "training.steps=1")
    processes = start_ranks(
        2, "--data", tiny_shards, "--run", tmp_path, *TINY, "training.steps=2", "training.freeze=['*.bias']"
    )
    codes, said = zip(*ends(processes), strict=True)
    assert codes == (2, 2), said
    assert "was started with training.freeze = (), and this is ('*.bias',)" in said[0]
    assert "lost" not in said[0] + said[1]
    assert "error" not in said[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_mistake_in_the_config_is_told_once_and_nobody_waits(tiny_shards: Path, tmp_path: Path) -> None:
    """Not even for a rank that is never started."""
    keys = (*TINY, "training.batch_size=9", "training.zero_stage=0", "training.offload_optimizer=cpu")
    processes = start_ranks(3, "--data", tiny_shards, "--run", tmp_path / "run", *keys)
    processes[2].send_signal(signal.SIGKILL)
    codes, said = zip(*ends(processes), strict=True)
    assert codes[:2] == (2, 2), said
    assert "error: training.offload_optimizer is 'cpu', which needs" in said[0]
    assert "error" not in said[1]
