"""Stops, kills and resumes that must not change a run, and failures that must end it with a word."""

import resource
import signal
from pathlib import Path

import psutil
import pytest
import torch
from conftest import TINY
from launch import ends, losses, metrics, start_ranks, train, wait_for
from safetensors.torch import load_file

from video_dit.errors import UserError
from video_dit.run_folder import RunFolder, read_rows
from video_dit.training.piece_files import PieceName, PieceReader, write_pieces

NUM_STEPS = 20
SETTINGS = (*TINY, "training.schedule=constant", "training.log_every=1", "training.checkpoint_every=4")


def start(run: Path, shards: Path, num_ranks: int, *overrides: str) -> list[float]:
    train(num_ranks, "--data", shards, "--run", run, *SETTINGS, f"training.steps={NUM_STEPS}", *overrides)
    return losses(run)


def state(run: Path) -> dict[str, torch.Tensor]:
    """All of the last checkpoint."""
    folder = RunFolder(run).latest_checkpoint()
    pieces = PieceReader(folder)
    averaged = {f"ema/{name}": tensor for name, tensor in load_file(folder / "ema.safetensors").items()}
    return averaged | {key: pieces.read_whole(key) for key in pieces.keys}


def interrupt(
    run: Path, shards: Path, num_ranks: int, after: int, how: signal.Signals, *overrides: str
) -> list[tuple[int, str]]:
    """Starts the run, sends the last rank a signal after some steps, and returns how each ended and what it said."""

    def reached() -> bool:
        assert all(process.returncode is None for process in processes), ends(processes)
        rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        return len(rows) >= after

    arguments = ("--data", shards, "--run", run, *SETTINGS, "training.steps=2000", *overrides)
    processes = start_ranks(num_ranks, *arguments)
    wait_for(reached)
    processes[-1].send_signal(how)
    return ends(processes)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("num_ranks", "zero_stage"), [(1, 2), (2, 3)])
def test_a_run_that_is_stopped_and_killed_is_the_same_run(
    tiny_shards: Path, tmp_path: Path, num_ranks: int, zero_stage: int
) -> None:
    """Bit for bit: losses, weights, averages and the optimizer's state."""
    stage = f"training.zero_stage={zero_stage}"
    whole = start(tmp_path / "whole", tiny_shards, num_ranks, stage)
    run = tmp_path / "parts"
    for code, said in interrupt(run, tiny_shards, num_ranks, 2, signal.SIGTERM, stage):
        assert code == 0, said
    stopped_after = metrics(run)[-1]["step"]
    assert (run / f"checkpoints/step-{stopped_after:06d}").exists()
    (run / "checkpoints/step-000099.unfinished").mkdir()  # as a kill while saving leaves it
    *others, (code, _) = interrupt(run, tiny_shards, num_ranks, stopped_after + 5, signal.SIGKILL, stage)
    assert code == -signal.SIGKILL
    for code, said in others:
        assert code == 2
        assert "has lost another rank" in said
        assert "Traceback" not in said
    assert start(run, tiny_shards, num_ranks, stage) == whole
    ours, theirs = state(run), state(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    assert not list((run / "checkpoints").glob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_goes_on_at_any_zero_stage_on_any_number_of_ranks(
    tiny_shards: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = (f"training.optimizer={optimizer}", f"training.gradient_clipping={int(optimizer == 'adamw')}")
    legs = {"adamw": [(1, 0), (2, 3), (1, 2), (4, 1), (2, 0)], "muon": [(1, 0), (2, 2), (1, 1), (2, 0), (2, 1)]}
    whole = start(tmp_path / "whole", tiny_shards, 1, "training.zero_stage=0", *settings)
    for leg, (num_ranks, zero_stage) in enumerate(legs[optimizer], start=1):
        parts = start(
            tmp_path / "parts", tiny_shards, num_ranks, *settings, f"training.zero_stage={zero_stage}",
            f"training.steps={leg * NUM_STEPS // 5}",
            f"training.offload_optimizer={'cpu' if (num_ranks, zero_stage) == (2, 2) else 'none'}",
        )  # fmt: skip
    assert parts == pytest.approx(whole, abs=1e-4)
    norms = ([row["gradient_norm"] for row in metrics(tmp_path / name)] for name in ("parts", "whole"))
    assert next(norms) == pytest.approx(next(norms), rel=2e-3)
    ours, theirs = state(tmp_path / "parts"), state(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.distributed
def test_averages_in_8_bits_go_on_as_they_were(tiny_shards: Path, tmp_path: Path) -> None:
    """Bit for bit on the same ranks; elsewhere other values share a scale."""

    def go_on(name: str, num_ranks: int, zero_stage: int, steps: int) -> list[float]:
        settings = ("training.optimizer=adamw_8bit", f"training.zero_stage={zero_stage}", f"training.steps={steps}")
        return start(tmp_path / name, tiny_shards, num_ranks, *settings)

    whole = go_on("whole", 2, 3, 12)
    go_on("parts", 2, 3, 6)
    assert go_on("parts", 2, 3, 12) == whole
    ours, theirs = state(tmp_path / "parts"), state(tmp_path / "whole")
    assert {key.split("/")[0] for key in ours} == {"ema", "weights", "exp_avg", "exp_avg_sq"}
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    for num_ranks, zero_stage, steps in ((1, 0, 4), (2, 3, 8), (1, 2, 12)):
        moved = go_on("moved", num_ranks, zero_stage, steps)
    assert moved == pytest.approx(whole, abs=1e-3)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_rank_that_hangs_ends_the_run_and_is_named(tiny_shards: Path, tmp_path: Path) -> None:
    arguments = (
        "--data",
        tiny_shards,
        "--run",
        tmp_path,
        *SETTINGS,
        "training.steps=2000",
        "training.step_time_limit=5",
    )
    processes = start_ranks(2, *arguments)
    wait_for(lambda: (tmp_path / "checkpoints/latest").exists())
    processes[1].send_signal(signal.SIGSTOP)
    ((code, said),) = ends(processes[:1])
    processes[1].send_signal(signal.SIGKILL)
    ends(processes[1:])
    assert code == 1
    assert "has waited for more than 5 seconds, which training.step_time_limit allows" in said
    assert "rank 1 does not answer" in said


@pytest.mark.slow
def test_a_reader_that_dies_ends_the_run(tiny_shards: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, "training.steps=2000", "training.num_workers=1")
    (rank,) = start_ranks(1, "--data", tiny_shards, "--run", tmp_path, *settings)
    wait_for(lambda: (tmp_path / "checkpoints/latest").exists())
    ((code, said),) = ends(start_ranks(1, "--data", tiny_shards, "--run", tmp_path, *settings))
    assert code == 2
    assert f"error: {tmp_path} is trained in by process {rank.pid} on " in said
    of_rank = psutil.Process(rank.pid).children()
    (reader,) = [reader for child in of_rank for reader in child.children()]  # the server forks it
    reader.kill()
    ((code, said),) = ends([rank])
    assert code == 2, said
    assert "error: a process that reads data for rank 0 has ended: DataLoader worker" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_scheduler_tells_all_processes_and_what_was_due_is_done_when_the_run_goes_on(
    tiny_shards: Path, tmp_path: Path
) -> None:
    """By SIGUSR1. Nothing is validated before the state is saved, and nothing twice; then the run goes on."""
    due = ("--validation", str(tiny_shards), "training.validate_every=1", "training.validation_clips=2")
    arguments = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS, *due)
    reading = ("training.num_workers=1", "training.micro_batch_size=1")
    (rank,) = start_ranks(1, *arguments, "training.steps=2000", *reading)
    wait_for(lambda: (tmp_path / "checkpoints/latest").exists())
    for process in (*psutil.Process(rank.pid).children(recursive=True), rank):
        process.send_signal(signal.SIGUSR1)
    ((code, said),) = ends([rank])
    assert code == 0, said
    assert "Traceback" not in said
    last = metrics(tmp_path)[-1]["step"]
    assert f"stopped by a signal after {last} steps; the same command goes on" in said

    def validated() -> list[int]:
        return [row["step"] for row in read_rows(RunFolder(tmp_path).validation)]

    assert validated() == [*range(1, last)]
    for steps in (last, last + 1):
        train(1, *arguments, f"training.steps={steps}")
        assert validated() == [*range(1, steps + 1)]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_with_those_that_there_are(tiny_shards: Path, tmp_path: Path) -> None:
    arguments = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS, "training.steps=8")
    train(1, *arguments)
    newest, earlier = (tmp_path / f"checkpoints/step-{step:06d}" for step in (8, 4))
    for name in ("rank-00000.safetensors", "ema.safetensors", "checkpoint.json"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[:20])
        ((code, said),) = ends(start_ranks(1, *arguments))
        assert code == 2
        assert f"error: {newest} cannot be read: " in said
        assert f"write its name into {tmp_path}/checkpoints/latest: step-000004" in said
        assert "Traceback" not in said
        (newest / name).write_bytes(whole)
    (tmp_path / "checkpoints/latest").write_text(earlier.name)
    train(1, *arguments)
    assert len(losses(tmp_path)) == 8


@pytest.mark.slow
@pytest.mark.distributed
def test_a_rank_that_cannot_write_ends_the_run(tiny_shards: Path, tmp_path: Path) -> None:
    arguments = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS, "training.steps=2000")
    processes = start_ranks(2, *arguments)
    resource.prlimit(processes[1].pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    (first_code, first_said), (second_code, second_said) = ends(processes)
    assert (first_code, second_code) == (2, 2), first_said
    assert "error: another rank could not write its part of a checkpoint" in first_said
    assert "step-000004.unfinished could not be written: " in second_said
    assert "File too large" in second_said
    assert not (tmp_path / "checkpoints/latest").exists()


def test_any_part_of_a_whole_is_read_from_pieces_that_overlap(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    write_pieces(tmp_path, 0, {PieceName("a/b.c", 0): whole[:4].clone(), PieceName("d", 0): whole})
    write_pieces(tmp_path, 1, {PieceName("a/b.c", 3): whole[3:7].clone(), PieceName("a/b.c", 7): whole[7:].clone()})
    reader = PieceReader(tmp_path)
    assert sorted(reader.keys) == ["a/b.c", "d"]
    for start in range(10):
        for end in range(start + 1, 11):
            assert torch.equal(reader.read("a/b.c", start, end - start), whole[start:end])
    assert torch.equal(reader.read_whole("a/b.c"), whole)
    with pytest.raises(UserError, match=r"has no a/b.c from 10 to 11"):
        reader.read("a/b.c", 8, 3)
    with pytest.raises(UserError, match=r"has no e from 0 to 1"):
        reader.read("e", 0, 1)
    with pytest.raises(UserError, match="is no checkpoint of this version"):
        PieceReader(tmp_path / "empty")
