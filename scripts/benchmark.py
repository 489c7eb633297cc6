"""Speed and memory, measured side by side with a reference in one run on one machine: the ratios are the result."""

import argparse
import json
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import av
import torch
from command_line import positive_float, positive_int, run_program
from loading_speed import loading_table, measure_loading
from model_inputs import HEAD_SIZE, say
from model_memory import measure_memory, memory_chart, memory_table
from model_speed import import_diffusers, measure_speed, speed_table
from preprocess_jobs import default_workers
from preprocess_speed import PARTS, measure_preprocess
from train_speed import TRAIN_PARTS, measure_training, training_table
from work_time import preprocess_table

from data.decoders import DECODERS
from video_dit.config import Precision
from video_dit.errors import UserError
from video_dit.files import write_atomically

Benchmark = Callable[[argparse.Namespace, torch.device], None]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Sizes(NamedTuple):
    """What the options of a benchmark are when they are not given."""

    hidden_size: int
    depth: int
    tokens: int
    memory_hidden_size: int
    memory_depth: int
    memory_tokens: tuple[int, ...]
    chunk_size: int
    memory_precision: str


SIZES = {
    "cpu": Sizes(1536, 2, 1024, 256, 8, (512, 1024, 1536), 512, "fp32"),
    "cuda": Sizes(1536, 24, 8192, 1536, 24, (2048, 4096, 8192), 2048, "bf16"),
}


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args = arguments(SIZES[device.type])
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what it has started ends with it
    args.benchmark(args, device)


def arguments(sizes: Sizes) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_model(commands, sizes)
    add_preprocess(commands)
    add_loading(commands)
    add_train(commands)
    return parser.parse_args()


def add_command(commands: Commands, name: str, benchmark: Benchmark, what: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    out = Path("benchmarks", name)
    parser.add_argument("--out", type=Path, default=out, help=f"folder for {name}.json and charts, if any")
    parser.set_defaults(benchmark=benchmark)
    return parser


def add_model(commands: Commands, sizes: Sizes) -> None:
    parser = add_command(
        commands, "model", benchmark_model, "the transformer against that of diffusers, and what saves memory"
    )
    add = parser.add_argument
    precisions = get_args(Precision)
    add("--parts", nargs="+", choices=("speed", "memory"), default=["speed", "memory"], help="what to measure")
    add("--precisions", nargs="+", choices=precisions, default=precisions, help="of weights and latents")
    add("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"], help="of both sides")
    add("--repeats", type=positive_int, default=7, help="measurements of each side, in turns")
    add("--hidden-size", type=positive_int, default=sizes.hidden_size, help="speed: width, in heads of 64")
    add("--depth", type=positive_int, default=sizes.depth, help="speed: number of blocks")
    add("--tokens", type=positive_int, default=sizes.tokens, help="speed: video tokens")
    add("--text-tokens", type=positive_int, default=154, help="text tokens")
    add("--memory-hidden-size", type=positive_int, default=sizes.memory_hidden_size, help="memory: width, likewise")
    add("--memory-depth", type=positive_int, default=sizes.memory_depth, help="memory: number of blocks")
    add(
        "--memory-tokens", type=positive_int, nargs="+", default=list(sizes.memory_tokens),
        help="memory: video tokens; the memory of the plain model at the longest is what the others may use",
    )  # fmt: skip
    add("--chunk-size", type=positive_int, default=sizes.chunk_size, help="memory: feed_forward_chunk_size")
    parser.set_defaults(memory_precision=sizes.memory_precision)


def add_preprocess(commands: Commands) -> None:
    add = add_command(
        commands,
        "preprocess",
        benchmark_preprocess,
        "preprocessing and its stages against plain PyAV and the decoder's limit",
    ).add_argument
    add("videos", type=Path, nargs="+", metavar="VIDEO_OR_FOLDER", help="what to measure on")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--repeats", type=positive_int, default=5, help="measurements of each side, in turns")
    add("--copies", type=positive_int, default=1, help="times that each video is worked on in a measurement")
    add("--workers", type=positive_int, default=default_workers(), help="processes")
    add("--probes", type=positive_int, default=10, help="probes for one full decode, which takes so much longer")
    add("--height", type=positive_int, default=256, help="pixels of frames' shorter side, and of clips' both sides")
    add("--fps", type=positive_float, default=8.0, help="frames per second of clips")
    add("--num-frames", type=positive_int, default=16, help="frames of clips")
    add("--clips-per-shard", type=positive_int, default=16, help="few, as each worker should have several shards")
    add("--decoder", choices=tuple(DECODERS), default="auto", help="as data.decoder")
    add("--config", type=Path, help="TOML file with what else decides how clips are made")


def add_loading(commands: Commands) -> None:
    add = add_command(
        commands, "loading", benchmark_loading, "reading shards against what a model consumes, and its memory"
    ).add_argument
    add("shards", type=Path, metavar="SHARDS", help="folder of shards")
    add("--config", type=Path, default=Path("configs/quickstart.toml"), help="of the model")
    add("--epochs", type=positive_int, default=10, help="times that all clips are read")
    add("--batch-size", type=positive_int, default=32, help="samples that are read together")
    add("--num-workers", type=int, default=0, help="as training.num_workers")
    add("--repeats", type=positive_int, default=10, help="steps of the model")


def add_train(commands: Commands) -> None:
    add = add_command(
        commands,
        "train",
        benchmark_train,
        "training against a plain loop around the transformer of diffusers, and what checkpoints cost",
    ).add_argument
    add("shards", type=Path, metavar="SHARDS", help="folder of shards of latents")
    add("--config", type=Path, default=Path("configs/quickstart.toml"), help="of the run; the optimizer is AdamW")
    add("--parts", nargs="+", choices=TRAIN_PARTS, default=list(TRAIN_PARTS), help="what to measure")
    add("--ranks", nargs="+", type=positive_int, default=[1, 2], help="numbers of ranks")
    add("--zero-stages", nargs="+", type=int, choices=range(4), default=list(range(4)), help="of each number of ranks")
    add("--compile", action="store_true", help="ours with compiled blocks, and diffusers' once with them, once without")
    add("--steps", type=positive_int, default=10, help="of each turn, and up to as many before that are not counted")
    add("--repeats", type=positive_int, default=12, help="turns of each side")
    add("--overrides", nargs="+", default=[], metavar="table.key=value", help="override keys of the config")


def benchmark_model(args: argparse.Namespace, device: torch.device) -> None:
    for name in ("hidden_size", "memory_hidden_size"):
        if getattr(args, name) % HEAD_SIZE:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: use a multiple of {HEAD_SIZE}")
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"versions": {"torch": torch.__version__}}
    if "speed" in args.parts:
        results["versions"]["diffusers"] = import_diffusers().__version__
        results["speed"] = measure_speed(args, device)
        print(speed_table(results["speed"]), end="\n\n")
    if "memory" in args.parts:
        results["memory"] = measure_memory(args)
        print(memory_table(results["memory"]), end="\n\n")
        memory_chart(results["memory"]).save(args.out / "memory.png")
    keep(args, device, results)


def benchmark_preprocess(args: argparse.Namespace, device: torch.device) -> None:
    rows = []
    for row in measure_preprocess(args):
        rows.append(row)
        say(preprocess_table([row]))
    print(preprocess_table(rows), end="\n\n")
    versions = {"av": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    settings = {key: value for key, value in vars(args).items() if key not in ("benchmark", "command")}
    keep(args, device, {"versions": versions, "settings": settings, "rows": rows})


def benchmark_loading(args: argparse.Namespace, device: torch.device) -> None:
    result = measure_loading(args, device)
    print(loading_table(result), end="\n\n")
    keep(args, device, {"versions": {"torch": torch.__version__}, **result})


def benchmark_train(args: argparse.Namespace, device: torch.device) -> None:
    result = measure_training(args)
    print(training_table(result), end="\n\n")
    keep(args, device, {"versions": {name: version(name) for name in ("torch", "deepspeed", "diffusers")}, **result})


def keep(args: argparse.Namespace, device: torch.device, results: Mapping[str, Any]) -> None:
    """Writes what was measured, with the machine, into a file named as the benchmark; its path is the last line."""
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.command}.json"
    write_atomically(file, json.dumps({"machine": machine(device), **results}, indent=2, default=str) + "\n")
    print(file)


def machine(device: torch.device) -> dict[str, object]:
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(), "threads": torch.get_num_threads()}
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"device": names[0] if names else platform.machine(), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    run_program(main)
