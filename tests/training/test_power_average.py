"""Averages whose profile is known: step i has the i-th unit vector as weights, which shows what a step counts for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from launch import losses, run_script, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from video_dit.config import TrainingConfig
from video_dit.errors import UserError
from video_dit.run_folder import RunFolder
from video_dit.training.averages import AveragedWeights
from video_dit.training.power_average import Snapshot, combine, exponent_of, fit, inner_products, snapshots_of

NUM_STEPS = 240


@pytest.fixture(scope="module")
def unit_vectors(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Snapshots of two widths every 20 steps."""
    run = RunFolder(tmp_path_factory.mktemp("unit"))
    averages = AveragedWeights({"w": torch.zeros(NUM_STEPS)}, TrainingConfig(ema_widths=(0.05, 0.1)))
    for step, row in enumerate(torch.eye(NUM_STEPS)):
        averages.update({"w": row}, step)
        if (step + 1) % 20 == 0:
            run.snapshot(step + 1).mkdir(parents=True)
            for name in averages.power_names:
                save_file(averages.by_name[name], run.snapshot(step + 1) / f"{name}.safetensors")
    return run


def profile(width: float, num_steps: int) -> np.ndarray:
    """The closed form: step i counts for the integral of the profile from i - 1 to i."""
    edges = (np.arange(NUM_STEPS + 1) / num_steps).clip(max=1) ** (exponent_of(width) + 1)
    return np.diff(edges)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.28])
def test_the_width_is_the_deviation_of_the_profile(width: float) -> None:
    """As a share of its length; by sampling the profile's quantile function, which is u^(1 / (g + 1))."""
    quantiles = ((np.arange(100_000) + 0.5) / 100_000) ** (1 / (exponent_of(width) + 1))
    assert quantiles.std() == pytest.approx(width, rel=1e-3)


def test_each_step_counts_for_its_part_of_the_profile(unit_vectors: RunFolder) -> None:
    assert len(unit_vectors.snapshots()) == 12
    for snapshot in snapshots_of(unit_vectors):
        average = load_file(snapshot.file)["w"].numpy()
        np.testing.assert_allclose(average, profile(snapshot.width, snapshot.step), atol=1e-6)


def test_inner_products_are_integrals() -> None:
    times, exponents = np.array([3.0, 7.0, 7.0]), np.array([17.0, 7.0, 0.5])
    u = (np.arange(700_000) + 0.5) / 100_000
    rows = [(g + 1) * u**g / t ** (g + 1) * (u < t) for t, g in zip(times, exponents, strict=True)]
    integrals = np.array([[(a * b).sum() / 100_000 for b in rows] for a in rows])
    np.testing.assert_allclose(inner_products(times, exponents, times, exponents), integrals, rtol=1e-4)


def test_weights_that_stand_still_come_out_as_they_are() -> None:
    few = [Snapshot(step, width, Path()) for step in (400_000, 900_000) for width in (0.05, 0.1)]
    assert fit(few, 900_000, 0.2).factors.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("width", "step", "limit"), [(0.07, 240, 0.012), (0.1, 200, 1e-6), (0.15, 240, 0.02)])
def test_another_width_is_found_from_snapshots(unit_vectors: RunFolder, width: float, step: int, limit: float) -> None:
    snapshots = snapshots_of(unit_vectors, step)
    found = fit(snapshots, step, width)
    ours, exact = combine(snapshots, found.factors)["w"].numpy(), profile(width, step)
    error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    assert error < limit
    assert error == pytest.approx(found.error, rel=0.2, abs=1e-6)  # that error is of the profile in continuous time


def test_what_cannot_be_made_says_so(unit_vectors: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no snapshots of step 30: name one of 20, 40, 60,"):
        snapshots_of(unit_vectors, 30)
    with pytest.raises(UserError, match=r"has no snapshots: train with training.ema_widths"):
        snapshots_of(RunFolder(tmp_path))
    with pytest.raises(UserError, match=r"the width is 0.3, and must be above 0 and at most 0.2887"):
        fit([Snapshot(20, 0.1, Path())], 20, 0.3)


SETTINGS = (
    *TINY, "training.learning_rate=0.01", "training.schedule=constant", "training.checkpoint_every=6",
    "training.snapshot_every=2", "training.ema_widths=[0.05,0.07,0.1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    train(1, "--data", tiny_shards, "--run", run, *SETTINGS, "training.steps=20", "training.zero_stage=0")
    return run


@pytest.mark.slow
def test_a_run_gives_a_width_that_it_kept_and_one_that_it_did_not(whole: Path, tmp_path: Path) -> None:
    """The directly computed average of 0.07 against the reconstruction from snapshots of 0.05 and 0.1."""
    direct = load_file(whole / "snapshots/step-000020/power-0.07.safetensors")
    copy = shutil.copytree(whole, tmp_path / "copy")
    for file in copy.glob("snapshots/*/power-0.07.safetensors"):
        file.unlink()
    average = ("average.py", copy, "--width", 0.07, "--out", tmp_path / "new/average.safetensors")
    result = run_script(*average)
    assert result.returncode == 0, result.stderr
    assert "after step 20, from 20 snapshots; their profile misses 0." in result.stdout
    assert "average.safetensors exists: give another --out" in run_script(*average).stderr
    with safe_open(average[-1], framework="pt") as file:
        assert file.metadata() == {"step": "20", "weights": "average of width 0.07, from 20 snapshots"}
    ours, other = load_file(average[-1]), load_file(copy / "snapshots/step-000020/power-0.1.safetensors")
    assert ours.keys() == direct.keys()

    def distance(a: dict[str, torch.Tensor]) -> float:
        return sum(float((a[name] - direct[name]).square().sum()) for name in a) ** 0.5

    assert distance(ours) < 0.01 * distance(other)
    options = ("--run", copy, "--weights", average[-1], "--out", tmp_path / "clips", "--steps", 2)
    assert run_script("generate.py", *options, "a red circle").returncode == 0
    exported = run_script("export.py", copy, "--weights", average[-1], "--out", tmp_path / "model")
    assert exported.returncode == 0, exported.stderr
    assert "average of width 0.07, from 20 snapshots, after 20 steps" in (tmp_path / "model/README.md").read_text()


@pytest.mark.slow
def test_a_run_in_two_parts_leaves_the_same_snapshots_and_forgets_those_of_lost_steps(
    whole: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    start = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS, "training.zero_stage=0")
    train(1, *start, "training.steps=12")
    lost = RunFolder(tmp_path).snapshot(13)
    lost.mkdir()
    train(1, *start, "training.steps=20")
    assert losses(tmp_path) == losses(whole)
    assert not lost.exists()
    files = sorted(path.relative_to(whole) for path in whole.glob("snapshots/*/*"))
    assert len(files) == 30
    for file in files:
        ours, theirs = load_file(tmp_path / file), load_file(whole / file)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.distributed
def test_sharded_averages_are_those_of_one_rank(whole: Path, tiny_shards: Path, tmp_path: Path) -> None:
    start = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS)
    train(2, *start, "training.steps=20", "training.zero_stage=3")
    for file in whole.glob("snapshots/step-000020/*"):
        ours, theirs = load_file(tmp_path / file.relative_to(whole)), load_file(file)
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_other_averages_change_neither_the_run_nor_its_plain_average(
    whole: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    start = ("--data", tiny_shards, "--run", tmp_path, *SETTINGS, "training.ema_widths=[]")
    train(1, *start, "training.steps=20", "training.zero_stage=0")
    assert losses(tmp_path) == losses(whole)
    ours, theirs = (load_file(run / "checkpoints/step-000020/ema.safetensors") for run in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "snapshots").exists()
