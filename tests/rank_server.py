"""As a program: forks ranks of scripts/train.py, as importing what they need takes seconds for each.

Reads jobs from its input, as JSON: the arguments, and an environment and a file for the output of each rank. Prints how
each rank ended, as JSON.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401

import video_dit.sampling.pipeline
import video_dit.training.loop  # noqa: F401

PROGRAM = Path(__file__).parent.parent / "scripts/train.py"


def run_rank(arguments: list[str], environment: dict[str, str], output: str) -> None:
    """As if it were a process that has just begun; does not return."""
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    sys.argv = [str(PROGRAM), *arguments]
    runpy.run_path(str(PROGRAM), run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    sys.path.insert(0, str(PROGRAM.parent))
    for line in sys.stdin:
        job = json.loads(line)
        ranks = []
        for environment, output in job["ranks"]:
            ranks.append(os.fork())
            if ranks[-1] == 0:
                run_rank(job["arguments"], environment, output)
        codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
        print(json.dumps(codes), flush=True)
