#!/usr/bin/env bash
# From nothing to generated clips: ./scripts/quickstart.sh for the built-in shapes, or ./scripts/quickstart.sh MY_VIDEOS
set -euo pipefail
videos="${1:+$(realpath "$1")}"
source "$(dirname "$0")/environment.sh" requirements.txt

step() { # what the command is for, then the command
    printf '\n%s\n  $' "$1"
    local word
    for word in "${@:2}"; do
        case "$word" in "" | *" "*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n\n'
    "${@:2}"
}

if [ -z "$videos" ]; then
    run=runs/quickstart
    step "Render captioned clips of moving shapes:" \
        python scripts/make_shapes.py $run/videos
    step "Decode, resize and encode them into shards:" \
        python scripts/preprocess.py $run/videos --config configs/preprocess/shapes.toml --out $run/shards
    step "Train a joint transformer on the shards; the same command again resumes:" \
        deepspeed -q scripts/train.py --config configs/quickstart.toml --data $run/shards --run $run
    step "Generate clips from text:" \
        python scripts/generate.py --run $run --out $run/clips \
        "a red circle moves left" "a yellow triangle moves up" "a blue square moves down" "a green circle moves right" \
        "a cyan square moves down" "a magenta circle moves right"
    step "Measure how many clips show what their prompt asked for:" \
        python scripts/evaluate.py --run $run
    made=("$run/shards" "$run/checkpoints" "$run/tensorboard" "$run/clips" "$run/evaluation.json")
else
    run="runs/$(basename "$videos")"
    step "Decode, resize and encode your videos into shards:" \
        python scripts/preprocess.py "$videos" --out "$run/shards"
    step "Train a joint transformer on the shards; the same command again resumes:" \
        deepspeed -q scripts/train.py --config configs/quickstart.toml --data "$run/shards" --run "$run"
    if [ -s "$run/example_prompts.txt" ]; then
        step "Generate clips from some of your captions:" \
            python scripts/generate.py --run "$run" --out "$run/clips" --prompts-file "$run/example_prompts.txt"
    else
        step "Your videos have no captions; generate a clip without a prompt:" \
            python scripts/generate.py --run "$run" --out "$run/clips" ""
    fi
    made=("$run/shards" "$run/checkpoints" "$run/tensorboard" "$run/clips")
fi

printf '\nMade:\n'
printf '  %s\n' "${made[@]}"
