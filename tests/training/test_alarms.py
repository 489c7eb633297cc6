"""Steps that are left out, and what a run says of its steps: gradient norms, alarms, samples."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY
from launch import ends, metrics, run_ranks, start_ranks, train
from poisoned import poisoned

from data.dataset import ClipDataset, load_batches
from data.order import Position
from data.probe import probe
from data.video import read_clips
from video_dit.config import Config, load_config
from video_dit.errors import UserError
from video_dit.models import build_model
from video_dit.run_folder import RunFolder
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.alarms import Alarms
from video_dit.training.loss import LossFunction
from video_dit.training.piece_files import PieceReader

NOT_FINITE, SPIKE = 3, 5
"""The steps in which a sample is not a number, and one is far too large."""
SETTINGS = (
    *TINY, "training.steps=6", "training.schedule=constant", "training.log_every=4", "training.checkpoint_every=3",
    "training.keep_checkpoints=9", "training.spike_window=2", "training.spike_factor=50",
)  # fmt: skip
RUNS = {(2, 0): (), (1, 1): (), (2, 2): (), (2, 3): ("training.sample_every=4", "training.num_samples=2")}
"""Ranks and ZeRO stage, and what else is asked of the run."""


def sample_at(shards: Path, index: int) -> str:
    """Of the only bucket's order."""
    return ClipDataset(shards, 0)[Position(0, index)].sample.id


@pytest.fixture(scope="module")
def bad_samples(tiny_shards: Path) -> dict[int, str]:
    """By step, with eight samples in each."""
    return {step: sample_at(tiny_shards, 8 * (step - 1) + 5) for step in (NOT_FINITE, SPIKE)}


@pytest.fixture(scope="module")
def bad_shards(tiny_shards: Path, bad_samples: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    factors = {bad_samples[NOT_FINITE]: math.nan, bad_samples[SPIKE]: 100.0}
    return poisoned(tiny_shards, tmp_path_factory.mktemp("bad") / "shards", factors)


def start(run: Path, shards: Path, num_ranks: int, *overrides: str) -> Path:
    train(num_ranks, "--data", shards, "--run", run, *SETTINGS, "training.micro_batch_size=2", *overrides)
    return run


@pytest.fixture(scope="module")
def runs(bad_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        (ranks, stage): start(folder / f"{ranks}-{stage}", bad_shards, ranks, f"training.zero_stage={stage}", *more)
        for (ranks, stage), more in RUNS.items()
    }


def alarm(run: Path, step: int) -> dict[str, Any]:
    return json.loads((run / f"alarms/step-{step:06d}.json").read_text())


def state(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and what the optimizer keeps."""
    pieces = PieceReader(run / f"checkpoints/step-{step:06d}")
    return {key: pieces.read_whole(key) for key in pieces.keys}


def assert_same_state(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


@pytest.mark.slow
@pytest.mark.distributed
def test_bad_steps_change_nothing_at_any_zero_stage(
    runs: dict[tuple[int, int], Path], bad_samples: dict[int, str]
) -> None:
    """The run goes on with the same losses everywhere, and each alarm names the sample."""
    for run in runs.values():
        assert_same_state(state(run, NOT_FINITE - 1), state(run, NOT_FINITE))
        assert not torch.equal(*(state(run, step)["weights/proj_out.weight"] for step in (NOT_FINITE, 6)))
        assert [row["step"] for row in metrics(run) if row.get("skipped")] == [NOT_FINITE, SPIKE]
        assert sorted(path.name for path in (run / "alarms").iterdir()) == ["step-000003.json", "step-000005.json"]
        for step, sample in bad_samples.items():
            said = alarm(run, step)
            assert said["checkpoint"] == f"step-{step - 1:06d}"
            assert (run / "checkpoints" / said["checkpoint"]).is_dir()
            assert [one["place"] for one in said["samples"]] == list(range(8))
            (worst,) = (one["id"] for one in said["samples"] if one["loss"] is None or one["loss"] > 50)
            assert worst == sample
        assert alarm(run, NOT_FINITE)["problem"] == "the loss is nan"
        assert "times the median" in alarm(run, SPIKE)["problem"]
    first, *others = (metrics(run) for run in runs.values())
    assert first[NOT_FINITE - 1]["loss"] is None
    for other in others:
        for key in ("loss", "gradient_norm"):
            for ours, theirs in zip(other, first, strict=True):
                assert ours[key] == (None if theirs[key] is None else pytest.approx(theirs[key], rel=1e-3)), key


@pytest.mark.slow
@pytest.mark.distributed
def test_the_gradient_norm_is_that_of_all_samples(runs: dict[tuple[int, int], Path], bad_shards: Path) -> None:
    """Of the first step, against the whole batch in one backward pass without DeepSpeed."""
    dataset = ClipDataset(bad_shards, 0)
    config = load_config(None, SETTINGS, fixed=dataset.info.tables)
    torch.manual_seed(config.seed)
    model = build_model(config, dataset.info.encoded)
    batch = next(load_batches(dataset, iter([[Position(0, index) for index in range(8)]]), 0))
    loss_function = LossFunction(config, dataset.empty_prompt(), dataset.text_segments(), torch.device("cpu"))
    loss_function(model, batch).mean.backward()
    expected = float(sum(parameter.grad.square().sum() for parameter in model.parameters())) ** 0.5
    for run in runs.values():
        assert metrics(run)[0]["gradient_norm"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
def test_samples_are_what_the_averaged_weights_make(runs: dict[tuple[int, int], Path]) -> None:
    """Of weights that were sharded over two ranks; and making them changed no loss, as the first test shows."""
    run = RunFolder(runs[2, 3])
    assert sorted(path.name for path in (run.path / "samples").iterdir()) == ["step-000004", "step-000006"]
    table = json.loads((run.samples(6) / "samples.json").read_text())
    assert table["prompts"] == run.example_prompts.read_text().splitlines()[:2]
    assert table["measures"].keys() == {f"{name}_as_asked" for name in ("all", "colour", "shape", "direction")}
    assert (run.samples(6) / "contact-sheet.png").exists()
    pipeline = VideoPipeline.from_run(run.path)
    expected = pipeline(table["prompts"], [0, 1]).numpy()
    data = pipeline.config.data
    files = sorted(run.samples(6).glob("*.mp4"))
    for clip, file in zip(expected, files, strict=True):
        ((_, window),) = read_clips(file, probe(file, data.limits), [0.0], data.grid, data)
        assert np.abs(window.frames.astype(int) - clip).mean() < 6  # what H.264 leaves of noise


@pytest.mark.slow
def test_a_bad_step_can_be_replayed(runs: dict[tuple[int, int], Path], bad_shards: Path, tmp_path: Path) -> None:
    """As docs/training.md says; it stops the run there, and left out, the run is what it was."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.toml", "data.json", "metrics.jsonl"):
        shutil.copy(runs[1, 1] / name, tmp_path)
    before = alarm(runs[1, 1], SPIKE)["checkpoint"]
    shutil.copytree(runs[1, 1] / "checkpoints" / before, tmp_path / "checkpoints" / before)
    (tmp_path / "checkpoints/latest").write_text(before)

    arguments = ("--data", bad_shards, "--run", tmp_path, *SETTINGS, "training.micro_batch_size=2")
    ((code, output),) = ends(start_ranks(1, *arguments, "training.zero_stage=1", "training.on_spike=stop"))
    assert code == 2, output
    assert "Traceback" not in output
    assert "training.on_spike=skip leaves it out" in output
    assert RunFolder(tmp_path).latest_checkpoint() == tmp_path / "checkpoints" / before
    assert alarm(tmp_path, SPIKE) == alarm(runs[1, 1], SPIKE)
    start(tmp_path, bad_shards, 1, "training.zero_stage=1")
    for ours, theirs in zip(metrics(tmp_path), metrics(runs[1, 1]), strict=True):
        assert all(ours[key] == theirs[key] for key in ("step", "loss", "gradient_norm"))
    assert_same_state(state(tmp_path, 6), state(runs[1, 1], 6))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "offloaded_to"), [(0, "none"), (2, "none"), (2, "cpu")])
def test_muon_changes_nothing_in_a_bad_step(bad_shards: Path, tmp_path: Path, stage: int, offloaded_to: str) -> None:
    run = start(
        tmp_path, bad_shards, 2, "training.steps=3", "training.optimizer=muon", "training.gradient_clipping=0",
        f"training.zero_stage={stage}", f"training.offload_optimizer={offloaded_to}",
    )  # fmt: skip
    assert_same_state(state(run, NOT_FINITE - 1), state(run, NOT_FINITE))


@pytest.mark.slow
@pytest.mark.distributed
def test_one_gradient_that_is_not_finite_holds_all_back() -> None:
    muon, cpu = "training.optimizer=muon", "training.offload_optimizer=cpu"
    runs = [
        [f"training.zero_stage={stage}", *more]
        for stage, more in [(0, []), (1, []), (3, []), (0, [muon]), (2, [muon]), (2, [muon, cpu]), (2, [cpu])]
    ]
    keys = [json.dumps([*TINY, "model.depth=1", "training.gradient_clipping=0", *of_run]) for of_run in runs]
    said = run_ranks(2, REPOSITORY / "tests/one_bad_gradient.py", *keys).splitlines()
    assert [json.loads(line) for line in said if line.startswith(("[f", "[t"))] == [[False, []]] * 7


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stages", "optimizer"), [((0, 3), "adamw"), ((2, 2), "adamw"), ((3, 0), "adamw"), ((2, 0), "muon")]
)
def test_a_run_goes_on_that_has_taken_no_step(
    tiny_shards: Path, tmp_path: Path, stages: tuple[int, int], optimizer: str
) -> None:
    """The optimizer has no state then, but Muon's momenta, which a backward pass makes."""
    keys = (f"training.optimizer={optimizer}", "training.gradient_clipping=0")
    shards = poisoned(tiny_shards, tmp_path / "shards", {sample_at(tiny_shards, 5): math.nan})
    for steps, stage in enumerate(stages, start=1):
        start(tmp_path / "run", shards, 2, f"training.steps={steps}", f"training.zero_stage={stage}", *keys)
    start(tmp_path / "whole", shards, 2, "training.steps=2", "training.zero_stage=1", *keys)
    ours, whole = metrics(tmp_path / "run"), metrics(tmp_path / "whole")
    assert [row["loss"] is None for row in ours] == [True, False]
    assert ours[1]["loss"] == pytest.approx(whole[1]["loss"], abs=1e-5)
    trained = [state(tmp_path / name, 2)["weights/proj_out.weight"] for name in ("run", "whole")]
    torch.testing.assert_close(*trained, atol=1e-5, rtol=0)


class Standing:
    """An engine and checkpoints of one rank, of which only what alarms ask is there."""

    rank, is_first_of_clips, scales_loss, published, step_taken = 0, True, False, 0, True

    def __init__(self) -> None:
        self.saved: list[int] = []

    def of_all_ranks(self, value: Any) -> list[Any]:
        return [value]

    def finish(self) -> None:
        pass

    def save(self, step: int) -> None:
        self.saved.append(step)


@pytest.fixture
def standing() -> Iterator[Standing]:
    return Standing()


def alarms_of(folder: Path, standing: Standing, last_step: int = 0, **training: Any) -> Alarms:
    config = Config.model_validate({"training": training})
    return Alarms(RunFolder(folder), standing, standing, config.training, last_step)


def test_a_spike_is_many_times_the_median_of_a_full_window(tmp_path: Path, standing: Standing) -> None:
    alarms = alarms_of(tmp_path, standing, spike_window=3, spike_factor=4)
    for step, loss in enumerate((1.0, 100.0, 2.0), start=1):
        assert alarms.problem_of(loss) is None
        alarms.settle(step, loss, None, [])
    assert alarms.problem_of(8.0) is None
    assert alarms.problem_of(8.1) == "the loss is 8.1, 4.05 times the median 2 of 3 steps"
    assert alarms.problem_of(math.inf) == "the loss is inf"
    assert alarms_of(tmp_path, standing, spike_factor=0).problem_of(1e30) is None


def test_the_window_is_read_back_without_what_was_left_out(tmp_path: Path, standing: Standing) -> None:
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None, "skipped": True}, {"step": 3, "loss": 1.0}]
    torn = '\n{"step": 4, "lo'
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + torn)
    assert alarms_of(tmp_path, standing, 3, spike_window=2, spike_factor=2).problem_of(3.0) is not None
    assert alarms_of(tmp_path, standing, 2, spike_window=2, spike_factor=2).problem_of(3.0) is None


def test_a_run_that_only_leaves_steps_out_ends(tmp_path: Path, standing: Standing) -> None:
    """With the state before the first of them saved once; under fp16 an infinite gradient is no alarm."""
    alarms = alarms_of(tmp_path, standing, max_skipped_steps=3)
    standing.step_taken = False
    for step in (5, 6):
        alarms.settle(step, 1.0, None, [])
        alarms.end_if_asked()
    standing.step_taken = True
    alarms.settle(7, 1.0, None, [])
    standing.step_taken = False
    for step in (8, 9, 10):
        alarms.end_if_asked()
        alarms.settle(step, 1.0, None, [])
    assert standing.saved == [4, 7]
    assert json.loads((tmp_path / "alarms/step-000010.json").read_text())["checkpoint"] == "step-000007"
    with pytest.raises(UserError, match=r"step 10, where the gradient is not finite: the last of 3 steps in a row"):
        alarms.end_if_asked()
    standing.scales_loss = True
    quiet = alarms_of(tmp_path, standing)
    quiet.settle(11, 1.0, None, [])
    assert not quiet.alarmed
