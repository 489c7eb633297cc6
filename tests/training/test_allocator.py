import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
import torch
from video_dit.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print([faults() for _ in range(20)][-1])
"""
"""What aligning a piece cuts off, up to seven times, keeps that piece from joining its neighbours (before glibc 2.38):
the first calls can have faults."""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's memory")
def test_memory_that_was_freed_comes_again_without_faults() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("leave") > 1000
    assert faults("keep") < 100
