# Sourced by quickstart.sh and test.sh: makes .venv when there is none and installs what is missing.
# Usage: source scripts/environment.sh REQUIREMENTS_FILE...

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
    python="${PYTHON:-python3}"
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "error: Python 3.10 or later is needed; name one with PYTHON=/path/to/python3 $0" >&2
        exit 2
    fi
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        echo "error: '$python -m venv' failed; on Debian and Ubuntu, install python3-venv" >&2
        exit 2
    fi
fi
source .venv/bin/activate

unset PYTHONDONTWRITEBYTECODE # else each program compiles the project when it starts
seldom_imported='/(tests?|testing|transformers/models|diffusers/pipelines|sklearn|wandb|pip|setuptools)/'
missing=()
for requirements in "$@"; do
    cmp -s "$requirements" ".venv/$requirements.installed" || missing+=("$requirements")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]} into .venv (the first time takes minutes)"
    python -m pip install --quiet --disable-pip-version-check --no-compile "${missing[@]/#/--requirement=}" || exit 1
    # What pip does, on all cores. Some packages bring files for other Pythons, which cannot be compiled.
    python -m compileall -qq -j 0 -x "$seldom_imported" .venv/lib || true
    for requirements in "${missing[@]}"; do cp "$requirements" ".venv/$requirements.installed"; done
fi

if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    # DeepSpeed looks for an accelerator before the project is imported, and says at length that it found none.
    export DS_ACCELERATOR=cpu
    # How many ranks the deepspeed launcher starts: two of one thread each are faster than one of two threads.
    export LOCAL_SIZE="${LOCAL_SIZE:-$(($(getconf _NPROCESSORS_ONLN) > 1 ? 2 : 1))}"
fi
