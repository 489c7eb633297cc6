"""How a rank is set up."""

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY
from launch import cpu_environment

SAYS_THREADS = """
import torch
from video_dit.training.engine import ranks

with ranks():
    print(torch.get_num_threads())
"""


@pytest.mark.parametrize("asked", ["1", "2"])
def test_a_rank_computes_with_no_more_threads_than_it_is_asked_to(asked: str) -> None:
    """Runs that share a machine say how many: with more than there are cores, each waits for the others' threads."""
    environment = cpu_environment({"OMP_NUM_THREADS": asked})
    said = subprocess.run([sys.executable, "-c", SAYS_THREADS], env=environment, capture_output=True, text=True)
    assert int(said.stdout) <= int(asked), said.stderr


STARTS = """
import sys
import torch
from losses_of_steps import Run
from torch import nn
from video_dit.training.engine import ranks


def refuse(*_: object) -> None:
    raise InterruptedError


with ranks():
    nn.Module.to = refuse
    for overrides in sys.argv[1:]:
        try:
            Run.of(overrides)
            print("in parts; autocast keeps weights:", torch.is_autocast_cache_enabled())
        except InterruptedError:
            print("as a whole")
"""


@pytest.mark.slow
def test_under_zero_3_no_device_has_the_whole_model_nor_rounded_copies_of_it() -> None:
    overrides = [json.dumps([*TINY, f"training.zero_stage={stage}"]) for stage in (2, 3)]
    program = [sys.executable, "-c", STARTS, *overrides]
    ended = subprocess.run(program, env=cpu_environment({}), cwd=REPOSITORY / "tests", capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["as a whole", "in parts; autocast keeps weights: False"], ended.stderr
