"""Writing checkpoints while training goes on."""

import threading
from pathlib import Path

import pytest

from video_dit.training.checkpoint import _Write


def test_a_writer_that_dies_of_anything_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    for state, dies in (({"step": 1}, False), ({"step": object()}, True)):
        write = _Write(tmp_path, 1, 0, {}, {}, state)
        write.start()
        write.join()
        assert (write.error is not None) == dies
    assert len(died) == 1
