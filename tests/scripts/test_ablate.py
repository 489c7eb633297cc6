import json
from pathlib import Path

import pytest
from ablation_grid import Grid, cells_of, read_grid
from ablation_runs import Run, Shards
from ablation_size import Size, equal_sizes, matched
from conftest import TINY
from launch import REPOSITORY, run_script
from random_run import random_run
from scipy import stats

from data.dataset_info import DatasetInfo
from video_dit.config import dump, load_config, with_changes
from video_dit.errors import UserError
from video_dit.evaluation.intervals import t_interval

GRIDS = sorted((REPOSITORY / "configs/ablations").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text)
    return file


def test_rows_times_axes(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [base]
        training.steps = 7
        [axes]
        diffusion.shift = [1.0, 2.0]
        model.qk_norm = ["rms", "none"]
        [[rows]]
        name = "DiT"
        model.name = "dit"
        [[rows]]
        name = "MM-DiT"
        training.steps = 9
        """,
    )
    cells = cells_of(read_grid(file), file, {})
    assert len(cells) == 8
    assert cells[0].name == "DiT, shift = 1.0, qk_norm = rms"
    assert cells[-1].name == "MM-DiT, shift = 2.0, qk_norm = none"
    assert cells[-1].config == load_config(None, ["training.steps=9", "diffusion.shift=2.0", "model.qk_norm='none'"])
    assert cells[0].config.model.name == "dit"
    assert cells[0].config.training.steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base]\nmodel.hiden_size = 8", r"model.hiden_size: unknown key; did you mean model.hidden_size"),
        ("sedes = [1]", "did you mean seeds"),
        ("[axes]\nmodel.depth = 3", r"model.depth in \[axes\] is 3: give a list"),
        ("[[rows]]\nmodel.depth = 3", "row 1 of .* has no name"),
        ("[base]\nmatch = 'flops'", "needs a reference"),
        ("measures = ['fvd']", "measures"),
        ("[[rows]]\nname = 'a'\nmodel.depth = 1\n[[rows]]\nname = 'a'\nmodel.depth = 2", "two cells are called 'a'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UserError, match=message):
        cells_of(read_grid(file), file, {})


def test_the_nearest_width_is_chosen(tiny_shards: Path) -> None:
    """No other width comes nearer."""
    encoded = DatasetInfo.read(tiny_shards).encoded
    reference = Size.of(load_config(None, ["model.hidden_size=96", "model.patch_size=[2,4,4]"]), encoded)
    dit = load_config(None, ["model.name=dit", "model.patch_size=[2,4,4]", "model.num_heads=2"])
    for match in ("parameters", "flops"):
        config, size = matched(dit, match, reference, encoded)
        assert size == Size.of(config, encoded)
        apart = abs(getattr(size, match) - getattr(reference, match))
        step = config.model.hidden_size_step
        for other in (-step, step):
            changed = with_changes(config, "model", {"hidden_size": config.model.hidden_size + other})
            assert abs(getattr(Size.of(changed, encoded), match) - getattr(reference, match)) >= apart


@pytest.mark.parametrize("file", GRIDS, ids=[file.stem for file in GRIDS])
def test_shipped_grids_can_be_run(file: Path, tiny_shards: Path) -> None:
    """On the quickstart's clips, whose shape the tiny ones do not have."""
    info = DatasetInfo.read(tiny_shards)
    encoded = info.encoded._replace(grid=info.encoded.grid._replace(frames=8, height=32, width=32))
    cells = equal_sizes(cells_of(read_grid(file), file, {}), encoded)
    sizes = {cell.name: size for cell, size in cells}
    for cell, size in cells:
        if cell.match is not None and cell.reference is not None:
            assert getattr(size, cell.match) == pytest.approx(getattr(sizes[cell.reference], cell.match), rel=0.1)


def test_the_grid_of_depths_is_the_quickstart_with_sd3_s_sizes() -> None:
    file = REPOSITORY / "configs/ablations/depth.toml"
    quickstart = load_config(REPOSITORY / "configs/quickstart.toml").model_dump()
    changed = {"steps", "checkpoint_every", "log_every"}
    for depth, cell in enumerate(cells_of(read_grid(file), file, {}), start=1):
        config = cell.config.model_dump()
        assert config["model"] == quickstart["model"] | {
            "preset": "sd3", "hidden_size": 64 * depth, "depth": depth, "num_heads": depth
        }  # fmt: skip
        assert {key for key, value in config["training"].items() if value != quickstart["training"][key]} <= changed
        assert config["diffusion"] == quickstart["diffusion"]


def test_the_interval_of_a_mean_is_scipy_s() -> None:
    values = [0.1, 0.35, 0.2]
    expected = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval([0.3]) is None


def test_an_evaluation_counts_if_it_is_of_the_last_step_and_of_what_the_grid_asks(
    tiny_shards: Path, tmp_path: Path
) -> None:
    """Not one that somebody has made of a run that was still trained."""
    config = load_config(None, (*TINY, "training.steps=1"))
    shards = Shards(tiny_shards, DatasetInfo.read(tiny_shards), None, None)
    grid = Grid(measures=("shapes_accuracy",), shapes_clips=12)
    run = Run("cell", 0, config, random_run(tmp_path / "run", config), grid, shards)
    evaluate = ["evaluate.py", "--run", str(run.path), "--clips", "12", "--seed", "0"]
    assert run.left() == [evaluate]
    done = {"weights": "checkpoints/step-000001/ema.safetensors", "seed": 0, "seen": {"clips": 12}}
    half_trained = {"weights": "checkpoints/step-000000/ema.safetensors"}
    for changes in ({}, half_trained, {"seed": 1}, {"seen": {"clips": 6}}):
        run.folder.evaluation.write_text(json.dumps({**done, **changes}))
        assert run.left() == ([evaluate] if changes else [])
    longer = run._replace(config=load_config(None, (*TINY, "training.steps=2")))
    run.folder.evaluation.write_text(json.dumps(done))
    assert [command[0] for command in longer.left()] == ["train.py", "evaluate.py"]


@pytest.mark.slow
def test_a_grid_is_run_tabled_and_not_run_again(tiny_shards: Path, tmp_path: Path) -> None:
    """Where a run fails, the other one goes on, and the same command tries that one alone."""
    keys = [key for key in TINY if not key.startswith(("data.", "text_encoder."))]
    (tmp_path / "tiny.toml").write_text(dump(load_config(None, keys), whole=False))
    file = written(
        tmp_path,
        """
        config = "tiny.toml"
        seeds = [0]
        [base]
        training.steps = 2
        [[rows]]
        name = "broken"
        training.initial_weights = "no.safetensors"
        [[rows]]
        name = "whole"
        """,
    )
    out = tmp_path / "out"
    command = ("ablate.py", "--grid", file, "--data", tiny_shards, "--validation", tiny_shards, "--out", out)
    first, again = run_script(*command), run_script(*command)
    assert "2 runs, 0 of them done already" in first.stdout, first.stderr
    assert "FAILED: broken, seed 0: train.py ended with exit code 2" in first.stdout
    assert "1 runs failed" in first.stderr
    assert first.returncode == again.returncode == 1
    assert "2 runs, 1 of them done already" in again.stdout
    results = json.loads((out / "results.json").read_text())
    assert [cell["name"] for cell in results["cells"]] == ["whole", "broken"]
    (values,) = results["cells"][0]["runs"].values()
    validation = (Path(values["run"]) / "validation.jsonl").read_text().splitlines()
    assert values["validation_loss"] == json.loads(validation[-1])["loss"]
    assert "| whole |" in (out / "table.md").read_text()
    assert (out / "chart.png").exists()
