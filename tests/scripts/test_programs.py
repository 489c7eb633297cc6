"""The programs as a newcomer meets them: the whole road at a tiny size, and what happens to mistakes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from launch import REPOSITORY, run_script, run_script_afresh
from PIL import Image
from vision_models import save_clip

from data.video import read_windows
from video_dit.config import load_config

pytestmark = pytest.mark.slow

PROGRAMS = (
    "make_shapes.py", "fetch_emoji.py", "preprocess.py", "from_sd3.py", "train.py", "generate.py", "evaluate.py",
    "evaluate_autoencoder.py", "average.py", "export.py", "ablate.py",
)  # fmt: skip
STARTED_AFRESH = ("preprocess.py", "train.py", "generate.py")
"""As a user starts them, of which each takes seconds to import what it needs."""
DATA_KEYS = [key for key in TINY if key.startswith(("data.", "text_encoder."))]
TRAINING_KEYS = [key for key in TINY if key not in DATA_KEYS]


@pytest.fixture(scope="module")
def road(shapes_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which preprocess and train have run."""
    root = tmp_path_factory.mktemp("road")
    preprocess = run_script("preprocess.py", shapes_videos, "--out", root / "shards", *DATA_KEYS)
    assert preprocess.returncode == 0, preprocess.stderr
    assert "videos: 156 in, 60 with clips, 96 without\nclips: 60 cut, 60 kept, 0 dropped" in preprocess.stdout
    train = run_script(
        "train.py", "--data", root / "shards", "--run", root / "run", *TRAINING_KEYS, "training.steps=12"
    )
    assert train.returncode == 0, train.stdout + train.stderr
    assert "step 12/12  loss " in train.stdout
    assert "tokens/s" in train.stdout
    assert "FLOP/s (MFU " in train.stdout
    return root


def test_generate_writes_clips_and_a_contact_sheet_and_overwrites_nothing(road: Path) -> None:
    (road / "prompts.txt").write_text("a blue square moves up\n\n")
    command = ("generate.py", "--run", road / "run", "--out", road / "clips", "a red circle!", "--steps", 2)
    for expected in (1, 2):
        result = run_script(*command, "--prompts-file", road / "prompts.txt", "--seed", 5)
        assert result.returncode == 0, result.stderr
        assert len(list((road / "clips").glob("a-red-circle-seed5*.mp4"))) == expected
        assert len(list((road / "clips").glob("a-blue-square-moves-up-seed5*.mp4"))) == expected
        assert len(list((road / "clips").glob("contact-sheet*.png"))) == expected
    first, second = (
        next(read_windows(path, load_config(None, DATA_KEYS).data)).frames.astype(int)
        for path in (road / "clips").glob("a-red-circle-seed5*.mp4")
    )
    assert np.abs(first - second).max() <= 2
    assert Image.open(road / "clips/contact-sheet.png").height > 2 * 96


def test_evaluate_writes_the_shares_with_their_interval(road: Path) -> None:
    result = run_script("evaluate.py", "--run", road / "run", "--clips", 12, "--seed", 7)
    assert result.returncode == 0, result.stderr
    evaluation = json.loads((road / "run/evaluation.json").read_text())
    assert evaluation.pop("weights") == "checkpoints/step-000012/ema.safetensors"
    assert evaluation.pop("seed") == 7
    assert list(evaluation) == ["seen", "held_out"]
    for row in evaluation.values():
        assert list(row) == ["all", "colour", "shape", "direction", "clips", "interval"]
        assert row["clips"] == 12
        assert row["interval"][0] <= row["all"] <= row["interval"][1]
        assert row["all"] <= min(row["colour"], row["shape"], row["direction"])


def test_evaluate_compares_clips_with_others_and_shows_them(road: Path) -> None:
    """Here with those of training, each of whose clips is its own nearest neighbour."""
    shards = road / "shards"
    arguments = (
        "--references", shards, "--training", shards, "--out", road / "compared", "--clips", 8,
        "--encoder", save_clip(road / "clip"), "--probe", "red", "green", "blue", "yellow", "cyan", "magenta",
    )  # fmt: skip
    result = run_script("evaluate.py", "--run", road / "run", *arguments)
    assert result.returncode == 0, result.stderr
    figures = json.loads((road / "compared/comparison.json").read_text())
    assert figures["clips"] == 8
    assert list(figures["measures"]) == ["other held-out clips", "run"]
    for measures in figures["measures"].values():
        of_sets = ["FID per frame", "KID per frame"]
        of_clips = ["motion", "flicker", "text similarity", "distance to training"]
        assert list(measures) == [*of_sets, "as asked", "phrase by colour", *of_clips]
        assert all(measure["low"] <= measure["value"] <= measure["high"] for measure in measures.values())
        assert all(measures[name]["low"] >= 0 for name in ("as asked", "phrase by colour", "motion", "flicker"))
        assert measures["motion"]["low"] > 0
    real, generated = figures["measures"].values()
    assert min(real["as asked"]["value"], real["phrase by colour"]["value"]) > 0.8
    assert real["distance to training"]["high"] < 1e-6 < generated["distance to training"]["low"]
    losses = figures["held_out_loss"]["run"]
    assert losses["clips"] == 8
    by_t, by_ratio = losses["loss_by_t"], losses["data_error_by_noise_ratio"]
    assert losses["loss"]["value"] == pytest.approx(sum(loss["value"] for loss in by_t) / 9)
    assert losses["loss"]["low"] < losses["loss"]["value"] < losses["loss"]["high"]
    assert (len(by_t), [*by_ratio]) == (9, ["0.5", "1.0", "2.0", "4.0"])
    assert losses["data_error"]["value"] == pytest.approx(sum(error["value"] for error in by_ratio.values()) / 4)
    page = (road / "compared/comparison.html").read_text()
    shown = re.findall(r'src="(clips/[^"]+)"', page)
    assert len(shown) == len(set(shown)) == 3 * 8
    assert {path.name for path in (road / "compared/clips").iterdir()} == {Path(source).name for source in shown}
    with Image.open(road / "compared/comparison.png") as sheet:
        assert sheet.width > (3 * 4 + 2) * 96  # frames of three clips, and white between
        assert np.asarray(sheet)[60, 4 * 100 + 50].tolist() == [255, 255, 255]
    first = next(read_windows(road / "compared" / shown[0], load_config(None, DATA_KEYS).data))
    assert first.frames.shape == (4, 16, 16, 3)
    assert (
        "--probe needs --training"
        in run_script("evaluate.py", "--run", "x", "--references", "y", "--out", "z", "--probe", "red").stderr
    )
    assert "--references needs --out" in run_script("evaluate.py", "--run", "x", "--references", "y").stderr


def test_a_second_run_of_each_program_does_nothing_again(road: Path, shapes_videos: Path) -> None:
    again = run_script("preprocess.py", shapes_videos, "--out", road / "shards", *DATA_KEYS)
    assert "have been preprocessed already" in again.stdout
    again = run_script(
        "train.py", "--data", road / "shards", "--run", road / "run", *TRAINING_KEYS, "training.steps=12"
    )
    assert again.returncode == 0, again.stderr
    assert "after 12 of 12 steps" in again.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_says_what_the_program_is_for(program: str) -> None:
    result = (run_script_afresh if program in STARTED_AFRESH else run_script)(program, "--help")
    assert result.returncode == 0, result.stderr
    first_line = (REPOSITORY / "scripts" / program).read_text().splitlines()[0].strip('"')
    assert first_line[:40] in result.stdout
    assert ("model.depth  (int; default " in result.stdout) == (program in ("preprocess.py", "train.py"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("preprocess.py", "nowhere", "--out", "{tmp}/out"), "nowhere does not exist: name a folder of videos"),
        (("preprocess.py", "{tmp}", "--out", "{tmp}/out"), "holds no video"),
        (("preprocess.py", "nonsense://x", "--out", "{tmp}/out"), "nonsense://x cannot be read"),
        (
            ("preprocess.py", "{tmp}", "--out", "{tmp}/out", "data.fsp=3"),
            "data.fsp: unknown key; did you mean data.fps?",
        ),
        (("train.py", "--data", "{tmp}", "--run", "{tmp}/run"), "make them with scripts/preprocess.py"),
        (("generate.py", "--run", "{tmp}", "--out", "{tmp}/out", "a dog"), "is not a run folder"),
        (("generate.py", "--run", "{tmp}", "--out", "{tmp}/out"), "no prompt: give some"),
        (
            ("generate.py", "--run", "{tmp}", "--out", "{tmp}", "--prompts-file", "gone.txt"),
            "gone.txt: there is no such",
        ),
        (("generate.py", "--run", "{tmp}", "--out", "/dev/null", "a dog"), "/dev/null: File exists"),
        (("evaluate.py", "--run", "{tmp}"), "is not a run folder"),
    ],
)
def test_mistakes_end_with_a_message_and_no_traceback(arguments: tuple, message: str, tmp_path: Path) -> None:
    result = run_script(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_the_emoji_need_npm(tmp_path: Path) -> None:
    result = run_script_afresh("fetch_emoji.py", tmp_path, "--limit", 1, environment={"PATH": str(tmp_path)})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: npm is not installed")
