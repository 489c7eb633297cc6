#!/usr/bin/env bash
# All checks and tests. Arguments go to pytest: ./scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "$0")/environment.sh" requirements.txt requirements-dev.txt

ruff check .
ruff format --check .
mypy
lint-imports
OMP_NUM_THREADS=1 pytest -n auto --dist worksteal "$@"
