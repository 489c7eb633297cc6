import numpy as np
import pytest
import torch

from video_dit.errors import UserError
from video_dit.evaluation.colour_probe import LinearProbe, colour_histogram


def test_the_histogram_is_numpy_s() -> None:
    clips = torch.randint(256, (3, 2, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    histograms = colour_histogram(clips)
    for clip, histogram in zip(clips.numpy(), histograms, strict=True):
        counts, _ = np.histogramdd(clip.reshape(-1, 3), bins=8, range=[(0, 256)] * 3)
        assert histogram.numpy() == pytest.approx(np.sqrt(counts.ravel() / counts.sum()), abs=1e-12, rel=0)


def test_the_probe_is_ridge_regression() -> None:
    """Solved here as ordinary least squares with rows that are the penalty, and a column that is the intercept."""
    rng = np.random.default_rng(0)
    features, labels, others = rng.normal(size=(40, 6)), rng.integers(3, size=40), rng.normal(size=(200, 6))
    mean, ridge = features.mean(0), 2.5
    penalty = np.sqrt(ridge) * np.eye(6)
    rows = np.block([[features - mean, np.ones((40, 1))], [penalty, np.zeros((6, 1))]])
    targets = np.concatenate([np.eye(3)[labels], np.zeros((6, 3))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    expected = (np.column_stack([others - mean, np.ones(200)]) @ weights).argmax(1)
    probe = LinearProbe(torch.tensor(features), torch.tensor(labels), ridge)
    assert probe.predict(torch.tensor(others)).tolist() == expected.tolist()


def test_a_class_without_clips_is_told() -> None:
    with pytest.raises(UserError, match=r"of the classes \[1, 0, 1\] clips"):
        LinearProbe(torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 2]))
