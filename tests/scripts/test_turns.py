"""Programs that train in turns."""

import os
from pathlib import Path

import psutil
import pytest
from turns import Side

from video_dit.errors import UserError

STEPS_OF_ROW = 10
COUNTS = f"""
import itertools, json
for step in itertools.count(1):
    print(json.dumps({{"step": step}} | ({{}} if step % {STEPS_OF_ROW} else {{"step_seconds": 0.1}})), flush=True)
"""


def test_a_side_stands_still_between_its_turns_and_gives_no_row_that_was_begun_before(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with Side(["-c", COUNTS], 1, tmp_path) as side:
        (process,) = set(psutil.Process().children()) - before
        steps = 0
        for _ in range(3):
            assert side.take_turn()["step"] >= steps + STEPS_OF_ROW
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            steps = (tmp_path / "stdout").read_text().count("\n")
    assert not process.is_running()


def test_a_side_that_ends_says_why(tmp_path: Path) -> None:
    with (
        Side(["-c", "raise SystemExit('error: no such shards')"], 2, tmp_path) as side,
        pytest.raises(UserError, match="has ended:\nerror: no such shards"),
    ):
        side.take_turn()
