"""Scores of a user's own."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from data.stages.failure import ClipError
from data.stages.scorers import Scorer, load_scorers
from video_dit.config import FiltersConfig, load_config
from video_dit.errors import UserError

REPOSITORY = Path(__file__).parents[3]
FRAMES = np.full((2, 8, 8, 3), 51, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where modules are found; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_function_that_the_config_names_scores_clips(folder: Path) -> None:
    (folder / "taste").mkdir()
    (folder / "taste/__init__.py").touch()
    (folder / "taste/light.py").write_text("def mean(frames):\n    return frames.mean() / 255\n")
    config = FiltersConfig(scorers={"light": "taste.light:mean", "size": "numpy:size"})
    scorers = load_scorers(config.scorers)
    assert list(scorers) == ["light", "size"]
    assert scorers["light"](FRAMES) == 0.2
    size = scorers["size"](FRAMES)
    assert (size, type(size)) == (384.0, float)


def _raise(error: Exception) -> object:
    raise error


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: math.nan, "filters.scorers.it gave nan, not a finite number"),
        (lambda: np.float32("inf"), "filters.scorers.it gave inf, not a finite number"),
        (lambda: None, "filters.scorers.it gave a NoneType, not a float"),
        (lambda: torch.ones(()), "filters.scorers.it gave a Tensor, not a float (of a tensor, .item() is one)"),
        (lambda: "0.5", "filters.scorers.it gave a str, not a float"),
        (lambda: _raise(ValueError("too small")), "filters.scorers.it failed: ValueError: too small"),
        (lambda: _raise(ZeroDivisionError("by zero")), "failed: ZeroDivisionError: by zero"),
        (lambda: _raise(RuntimeError("shapes")), "failed: RuntimeError: shapes"),
    ],
)
def test_a_failure_costs_the_clip(made: object, reason: str) -> None:
    with pytest.raises(ClipError) as error:
        Scorer("filters.scorers.it", lambda frames: made())(FRAMES)  # type: ignore[operator]
    assert reason in str(error.value)


def test_a_mistake_in_a_scorer_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError):
        Scorer("filters.scorers.it", lambda frames: frames.maen())(FRAMES)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "nowhere.there:score",
            r"scorers.it names 'nowhere.there:score', and there is no module nowhere: .*PYTHONPATH",
        ),
        ("taste.there:score", r"there is no module taste.there: correct the name"),
        ("taste:score", r"taste/__init__.py'> has no 'score': did you mean 'scores'\?"),
        ("taste:other", r"taste/__init__.py'> has no 'other': write it there"),
        ("taste:scores", r"which is a list: name a function"),
        ("needy:score", r"needs another module: No module named 'gone'. Install it"),
        ("broken:score", r"which cannot be imported: cannot import name 'squirt' from 'math'"),
    ],
)
def test_a_scorer_that_is_not_there_is_named(path: str, message: str, folder: Path) -> None:
    (folder / "taste").mkdir()
    (folder / "taste/__init__.py").write_text("scores = []\n")
    (folder / "needy.py").write_text("import gone\n")
    (folder / "broken.py").write_text("from math import squirt\n")
    with pytest.raises(UserError, match=message):
        load_scorers({"it": path})


@pytest.fixture
def examples(folder: Path) -> ModuleType:
    """The module in docs/scorers.md."""
    document = (REPOSITORY / "docs/scorers.md").read_text()
    (folder / "my_scorers.py").write_text(document.split("```python")[1].split("```")[0])
    return importlib.import_module("my_scorers")


def test_the_document_s_aesthetic_scorer(
    examples: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=8,
    )  # fmt: skip
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    model.save_pretrained(folder / "clip")
    processor.save_pretrained(folder / "clip")
    line = torch.nn.Linear(8, 1)
    torch.save(line.state_dict(), folder / "line.pth")
    monkeypatch.setattr(examples, "CLIP", str(folder / "clip"))
    monkeypatch.setattr(examples, "LINE", str(folder / "line.pth"))
    frames = rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    scores = []
    for frame in frames:
        embeds = model(**processor(Image.fromarray(frame), return_tensors="pt")).image_embeds[0]
        scores.append(line(embeds / embeds.norm()).item())
    assert load_scorers({"aesthetic": "my_scorers:aesthetic"})["aesthetic"](frames) == pytest.approx(np.mean(scores))


def test_the_document_s_scorer_of_text_sees_what_is_written_over_a_moving_picture(
    examples: ModuleType, rng: np.random.Generator
) -> None:
    picture = cv2.GaussianBlur(rng.integers(0, 256, (180, 400, 3), dtype=np.uint8), (0, 0), 3)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    moving = np.stack([picture[:, 10 * index : 10 * index + 320] for index in range(8)])
    written = moving.copy()
    for frame in written:
        cv2.putText(frame, "Subscribe for more", (30, 160), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    score = load_scorers({"text": "my_scorers:text_overlay"})["text"]
    assert score(moving) < 0.005
    assert 0.02 < score(written) < 0.2
    assert score(np.zeros((8, 180, 320, 3), dtype=np.uint8)) == 0


@pytest.mark.parametrize("path", ["score", "a:b:c", ".relative:score", "module:", ":score", "my file:score"])
def test_a_path_that_is_none_is_refused_with_the_config(path: str) -> None:
    with pytest.raises(UserError, match=r"filters.scorers.it is .*: write it as 'package.module:function'"):
        load_config(None, [f"filters.scorers.it={path!r}"])
