"""As a program: forks programs of scripts/, as importing what they need takes seconds for each.

Reads jobs from its input, as JSON: the name of a program, its arguments, the folder to run in, and of each process that
runs it the environment and the files for what it prints and for its errors. Prints how each ended, as JSON.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401

import video_dit.sampling.pipeline
import video_dit.training.loop  # noqa: F401

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(program: str, arguments: list[str], environment: dict[str, str], output: str, errors: str) -> None:
    """As if it were a process that has just begun; does not return."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate((os.devnull, output, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [str(SCRIPTS / program), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    sys.path.insert(0, str(SCRIPTS))
    for line in sys.stdin:
        job = json.loads(line)
        processes = []
        for files in job["processes"]:
            processes.append(os.fork())
            if processes[-1] == 0:
                os.chdir(job["folder"])
                run(job["program"], job["arguments"], *files)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        print(json.dumps(codes), flush=True)
