"""An exported folder is read as a run, and has the run's weights bit for bit."""

from pathlib import Path

import pytest
import torch
from conftest import TINY
from launch import run_script, train
from random_run import random_run
from safetensors.torch import load_file, save_file

from video_dit.config import Config, ConfigError
from video_dit.errors import UserError
from video_dit.run_folder import RunFolder
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.export import export_run


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("num_ranks", "zero_stage", "optimizer"),
    [(1, 0, "adamw"), (2, 2, "muon"), (1, 3, "adamw"), (2, 3, "adamw")],
)
def test_raw_weights_are_those_of_training_bit_for_bit(
    num_ranks: int, zero_stage: int, optimizer: str, tiny_shards: Path, tmp_path: Path
) -> None:
    """An average that forgets at once is the weights themselves, gathered while the run went on."""
    settings = (
        "training.ema_decay=0", "training.steps=3", "training.checkpoint_every=2", "training.learning_rate=0.01",
        f"training.zero_stage={zero_stage}", f"training.optimizer={optimizer}", "training.gradient_clipping=0",
        "model.hidden_size=36",
    )  # fmt: skip
    train(num_ranks, "--data", tiny_shards, "--run", tmp_path / "run", *TINY, *settings)
    run = RunFolder(tmp_path / "run")
    for step in (2, 3):
        out = tmp_path / f"raw-{step}"
        export_run(run, out, "raw", step)
        assert equal(load_file(out / "model.safetensors"), load_file(run.checkpoint(step) / "ema.safetensors"))
    assert not equal(*(load_file(tmp_path / f"raw-{step}/model.safetensors") for step in (2, 3)))


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(random_run(tmp_path_factory.mktemp("run"), tiny_config))


def test_an_exported_folder_is_read_as_a_run(run: RunFolder, tmp_path: Path) -> None:
    export_run(run, tmp_path / "model")
    clip = VideoPipeline.from_run(run.path, device="cpu")("a red circle", num_steps=2)
    assert torch.equal(VideoPipeline.from_run(tmp_path / "model", device="cpu")("a red circle", num_steps=2), clip)
    modes = {file.name: file.stat().st_mode for file in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == modes["README.md"]  # who may read the one may read the other
    card = (tmp_path / "model/README.md").read_text()
    assert card.startswith("---\npipeline_tag: text-to-video\n")
    assert "| weights | exponential average, after 1 steps of 8 clips; fp32 |" in card
    (tmp_path / "half.unfinished").mkdir()  # of an export that failed
    (tmp_path / "half.unfinished/adapter_model.safetensors").touch()
    export_run(RunFolder(tmp_path / "model"), tmp_path / "half", precision="bf16")
    assert not (tmp_path / "half/adapter_model.safetensors").exists()
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "half"))
    assert equal(half, {name: tensor.bfloat16() for name, tensor in whole.items()})
    assert (
        "| weights | exponential average, after 1 steps of 8 clips; bf16 |" in (tmp_path / "half/README.md").read_text()
    )
    rounded = VideoPipeline.from_run(tmp_path / "half", device="cpu")("a red circle", num_steps=2)
    assert (rounded.int() - clip.int()).abs().float().mean() < 4  # levels, of 255
    with pytest.raises(ConfigError, match="is an exported model, which has no checkpoints: name the run"):
        export_run(RunFolder(tmp_path / "model"), tmp_path / "raw", "raw")
    with pytest.raises(ConfigError, match=r"is an exported model: give another folder, and start from the model with"):
        RunFolder(tmp_path / "model").take()


def test_what_cannot_be_exported_says_so(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(ConfigError, match=r"has no checkpoint of step 7: name one of 1, or let"):
        export_run(run, out, step=7)
    with pytest.raises(UserError, match=r"gone \(--weights\) does not exist"):
        export_run(run, out, tmp_path / "gone")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors is of another model"):
        export_run(run, out, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors is of another model"):
        VideoPipeline.from_run(run.path, device="cpu", weights=tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"--step 1 chooses a checkpoint, and --weights names a file"):
        export_run(run, out, tmp_path / "other.safetensors", step=1)
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match=r"model exists: give another --out"):
        export_run(run, out)
    with pytest.raises(ConfigError, match="is not a run folder"):
        export_run(RunFolder(tmp_path / "nothing"), tmp_path / "new")


@pytest.mark.slow
def test_the_programs_pass_a_model_on(run: RunFolder, tmp_path: Path) -> None:
    exported = run_script("export.py", run.path, "--out", tmp_path / "model", "--precision", "bf16", "--step", 1)
    assert (exported.returncode, exported.stdout) == (0, f"{tmp_path / 'model'}\n"), exported.stderr
    weights = ("--weights", tmp_path / "model/model.safetensors")
    for name, options in {"exported": ("--run", tmp_path / "model"), "chosen": ("--run", run.path, *weights)}.items():
        made = run_script("generate.py", *options, "--out", tmp_path / name, "--steps", 2, "a red circle")
        assert made.returncode == 0, made.stderr
    clips = [(tmp_path / name / "a-red-circle-seed0.mp4").read_bytes() for name in ("exported", "chosen")]
    assert clips[0] == clips[1]
    again = run_script(
        "generate.py", "--out", tmp_path / "again", "--again", tmp_path / "chosen/a-red-circle-seed0.json"
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again/a-red-circle-seed0.mp4").read_bytes() == clips[1]
