"""What a rank says of the others when a step takes too long."""

import pytest
from torch.distributed import HashStore

from video_dit.training import watchdog
from video_dit.training.watchdog import Watchdog


def test_every_rank_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(watchdog, "ANSWERS", 0.0)
    store = HashStore()
    store.set("waiting/3", "step 7, saving")
    waiting = Watchdog(1, 5, store, time_limit=0)
    waiting.enter(7, "training")
    waiting._tell()
    said = capsys.readouterr().err.splitlines()
    assert "(step 7, training) has waited for more than" in said[0]
    assert said[1:] == [
        "rank 0 does not answer",
        "rank 2 does not answer",
        "rank 3 waits too: step 7, saving",
        "rank 4 does not answer",
    ]
    assert store.get("waiting/1") == b"step 7, training"
