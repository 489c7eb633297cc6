"""How a rank is set up."""

import subprocess
import sys

import pytest
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
