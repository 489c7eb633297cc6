"""train.py --plan as a user runs it."""

from pathlib import Path

import pytest
from conftest import TINY
from launch import run_script
from two_buckets import two_buckets

pytestmark = pytest.mark.slow

KEYS = [key for key in TINY if key.startswith(("model.", "training."))]


def test_a_plan_says_what_a_run_needs_and_starts_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    shards = two_buckets(tiny_shards, tmp_path / "shards")
    before = sorted(tmp_path.rglob("*"))
    result = run_script("train.py", "--plan", "--gpus", "4xH100-80GB", "--data", shards, *KEYS)
    assert result.returncode == 0, result.stderr
    assert "clips of 4x16x16 pixels, which need the most memory of 2 shape(s)" in result.stdout
    assert "each of 4 ranks computes 1 x 2" in result.stdout
    assert " s at 40% of 67 TFLOP/s each, which is an MFU of 40%" in result.stdout
    assert "fits 4 x H100 of 80 GiB" in result.stdout
    assert "estimates" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_what_does_not_fit_comes_with_changes_and_their_price(tiny_shards: Path) -> None:
    small = ("deepspeed.zero_optimization.reduce_bucket_size=1000", "model.depth=1")
    command = ("train.py", "--plan", "--data", tiny_shards, *KEYS, *small)
    result = run_script(*command, "--gpus", "1xSMALL-0.0023GB")
    assert result.returncode == 0, result.stderr
    assert "the peak of SMALL is not in the table" in result.stdout
    assert "DOES NOT FIT 1 x SMALL" in result.stdout
    assert "training.micro_batch_size=4" in result.stdout
    assert "2 forward passes a step" in result.stdout
    tiny = run_script(*command, "--gpus", "1xSMALL-0.0001GB")
    assert "none by itself" in tiny.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plan", "--data", "{tmp}"), "holds no shards"),
        (("--plan", "--data", "{shards}", "--gpus", "H100"), "--gpus H100: write COUNTxNAME-SIZEGB"),
        (
            ("--plan", "--data", "{shards}", "--gpus", "3xH100-80GB"),
            "training.batch_size is 8, which is not a multiple",
        ),
        (("--plan", "--data", "{shards}", "--utilisation", "2"), "2 is above 1"),
        (("--data", "{shards}"), "are required: --run"),
        (("--data", "{shards}", "--run", "{tmp}/run", "--gpus", "1xH100-80GB"), "--gpus is for --plan"),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], message: str, tiny_shards: Path, tmp_path: Path) -> None:
    result = run_script("train.py", *(part.format(tmp=tmp_path, shards=tiny_shards) for part in arguments), *KEYS)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
