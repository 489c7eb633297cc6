"""Fixtures that several test files share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library that could look a model up is imported

from pathlib import Path

import numpy as np
import pytest
import torch
from preprocessed import preprocess_here

from data.shapes_dataset.make import make_clips
from video_dit.config import Config, load_config

REPOSITORY = Path(__file__).parent.parent
TINY = (
    "data.num_frames=4", "data.height=16", "data.width=16", "data.clips_per_shard=50",
    "text_encoder.max_length=8", "text_encoder.width=16",
    "model.patch_size=[2,8,8]", "model.hidden_size=32", "model.depth=2", "model.num_heads=2",
    "training.batch_size=8", "training.warmup_steps=2",
)  # fmt: skip
"""Overrides for a run that takes seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real clips, for tests that skip without it."""
    folder = os.environ.get("VIDEO_DIT_ASSETS")
    if not folder:
        pytest.skip("VIDEO_DIT_ASSETS does not name the folder of real clips")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return load_config(None, TINY)


@pytest.fixture(scope="session")
def shapes_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set with one clip per seen combination: 60 train, 48 held out, 48 with two objects."""
    folder = tmp_path_factory.mktemp("shapes")
    make_clips(folder, clips_per_combination=1, num_frames=8, size=64, seed=0, progress=lambda plans: plans)
    return folder


@pytest.fixture(scope="session")
def tiny_shards(shapes_videos: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 clips in two shards."""
    folder = tmp_path_factory.mktemp("shards")
    preprocess_here(shapes_videos, folder, tiny_config)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
