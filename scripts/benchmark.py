"""Speed and memory, measured side by side with a reference in one run on one machine: the ratios are the result."""

import argparse
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from command_line import positive_int, run_program
from line_chart import line_chart
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from video_dit.config import ModelConfig
from video_dit.contracts import TextCondition
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.models import VideoDiT
from video_dit.shapes import Grid

CHANNELS, PATCH, HEAD_SIZE, TEXT_WIDTH, POOLED_WIDTH = 16, 2, 64, 4096, 2048
"""Of SD3 (Esser et al. 2024, arXiv 2403.03206)."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative error at which both sides compute the same: rounding passes, another architecture does not."""

MATMUL_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
WARM_UPS = 2


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
    if args.command == "model":
        benchmark_model(args, device)
    else:
        print(measure_step(args.keys, args.tokens, args.text_tokens, DTYPES[args.precision], device))


def arguments(sizes: Sizes) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    model = commands.add_parser(
        "model",
        help="the transformer against that of diffusers, and what saves memory",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = model.add_argument
    add("--out", type=Path, default=Path("benchmarks/model"), help="folder for model.json and memory.png")
    add("--parts", nargs="+", choices=("speed", "memory"), default=["speed", "memory"], help="what to measure")
    add("--precisions", nargs="+", choices=tuple(DTYPES), default=list(DTYPES), help="of weights and latents")
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
    model.set_defaults(memory_precision=sizes.memory_precision)

    worker = commands.add_parser("model-memory-worker")
    worker.add_argument("keys", type=json.loads)
    worker.add_argument("tokens", type=positive_int)
    worker.add_argument("text_tokens", type=positive_int)
    worker.add_argument("precision", choices=tuple(DTYPES))
    return parser.parse_args()


def benchmark_model(args: argparse.Namespace, device: torch.device) -> None:
    for name in ("hidden_size", "memory_hidden_size"):
        if getattr(args, name) % HEAD_SIZE:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}: use a multiple of {HEAD_SIZE}")
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(device), "versions": {"torch": torch.__version__}}
    if "speed" in args.parts:
        results["versions"]["diffusers"] = import_diffusers().__version__
        results["speed"] = measure_speed(args, device)
        print(speed_table(results["speed"]), end="\n\n")
    if "memory" in args.parts:
        results["memory"] = measure_memory(args)
        print(memory_table(results["memory"]), end="\n\n")
        memory_chart(results["memory"]).save(args.out / "memory.png")
    write_atomically(args.out / "model.json", json.dumps(results, indent=2) + "\n")
    print(args.out / "model.json")


def machine(device: torch.device) -> dict[str, object]:
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(), "threads": torch.get_num_threads()}
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"device": names[0] if names else platform.machine(), "threads": torch.get_num_threads()}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


# Speed


class Inputs(NamedTuple):
    """One image's worth: latents and target [1, C, H, W], t [1] in [0, 1], and the text."""

    latents: Tensor
    target: Tensor
    t: Tensor
    text: TextCondition


def measure_speed(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Training steps and forward passes of one architecture with the same weights, ours and diffusers' in turns."""
    rows: list[dict[str, Any]] = []
    for precision in args.precisions:
        say(f"{precision}: building both models")
        models = same_models(args, device, DTYPES[precision])
        inputs = random_inputs(args, device, DTYPES[precision])
        flops = {
            side: {work: count_flops(run) for work, run in workloads(side, model, inputs).items()}
            for side, model in models.items()
        }
        of_precision = []
        ceiling = matmul_ceiling(device, DTYPES[precision])
        for mode in args.modes:
            say(f"{precision} {mode}: warming up, then measuring")
            of_precision += [
                {"precision": precision, **row} for row in measure_mode(mode, models, inputs, args.repeats)
            ]
            ceiling = max(ceiling, matmul_ceiling(device, DTYPES[precision]))
        for row in of_precision:
            row["ceiling_flops_per_second"] = ceiling
            for side in models:
                row[f"{side}_flops"] = flops[side][row["work"]]
                row[f"{side}_mfu"] = row[f"{side}_flops"] / row[f"{side}_median"] / ceiling
        rows += of_precision
        torch.compiler.reset()
    sizes = {name: getattr(args, name) for name in ("hidden_size", "depth", "tokens", "text_tokens")}
    sizes["parameters"] = sum(parameter.numel() for parameter in models["ours"].parameters())
    return {"sizes": sizes, "repeats": args.repeats, "rows": rows}


def measure_mode(mode: str, models: dict[str, nn.Module], inputs: Inputs, repeats: int) -> list[dict[str, Any]]:
    """A row for each workload.

    Raises:
        RuntimeError: the two sides compute different functions.
    """
    callables = {side: torch.compile(model) if mode == "compiled" else model for side, model in models.items()}
    works = {side: workloads(side, model, inputs) for side, model in callables.items()}
    error = relative_error(works["ours"]["inference"](), works["theirs"]["inference"]())
    tolerance = TOLERANCES[inputs.latents.dtype]
    if not error < tolerance:
        raise RuntimeError(
            f"{mode}, with the same weights, the outputs differ by {error:.1e} relatively, more than {tolerance:.0e}: "
            "times of different functions are not compared"
        )
    rows = []
    for work in ("training", "inference"):
        seconds = in_turns({side: works[side][work] for side in works}, repeats, inputs.t.device, models.values())
        rows.append(
            {"mode": mode, "work": work, "relative_error": error, **compare(seconds["ours"], seconds["theirs"])}
        )
    return rows


def import_diffusers() -> Any:
    """
    Raises:
        UserError: it is not installed.
    """
    if find_spec("diffusers") is None:
        raise UserError(
            "diffusers is not installed, against which speed is measured: run "
            "`pip install -r requirements-dev.txt`, or measure memory alone with --parts memory"
        )
    logging.getLogger("xformers").setLevel(logging.ERROR)  # diffusers imports it, even where it has no kernels
    import diffusers

    diffusers.utils.logging.set_verbosity_error()  # it warns of every cast
    return diffusers


def same_models(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    """An SD3.5 of diffusers with random weights, and ours with the same weights."""
    grid = near_square(args.tokens)
    side = max(grid)
    torch.manual_seed(0)
    theirs = import_diffusers().SD3Transformer2DModel(
        sample_size=side * PATCH, patch_size=PATCH, in_channels=CHANNELS, out_channels=CHANNELS,
        num_layers=args.depth, attention_head_dim=HEAD_SIZE, num_attention_heads=args.hidden_size // HEAD_SIZE,
        caption_projection_dim=args.hidden_size, joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=POOLED_WIDTH,
        pos_embed_max_size=side, qk_norm="rms_norm",
    )  # fmt: skip
    ours = VideoDiT.from_sd3(theirs, num_frames=1, attention_pattern="full", temporal_position="none")
    return {"ours": ours.to(device, dtype), "theirs": theirs.to(device, dtype)}


def near_square(tokens: int) -> Grid:
    """One frame of this many tokens, as near to a square as whole numbers allow."""
    height = next(height for height in range(math.isqrt(tokens), 0, -1) if tokens % height == 0)
    return Grid(1, height, tokens // height)


def random_inputs(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(1)
    _, height, width = near_square(args.tokens)
    latents, target = torch.randn(2, 1, CHANNELS, height * PATCH, width * PATCH).to(device, dtype)
    return Inputs(latents, target, torch.full((1,), 0.5, device=device), random_text(args.text_tokens, device, dtype))


def random_text(tokens: int, device: torch.device, dtype: torch.dtype) -> TextCondition:
    embeds, pooled = torch.randn(1, tokens, TEXT_WIDTH), torch.randn(1, POOLED_WIDTH)
    mask = torch.ones(1, tokens, dtype=torch.bool, device=device)
    return TextCondition(embeds.to(device, dtype), mask, pooled.to(device, dtype))


def workloads(side: str, model: Callable[..., Any], inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """What is measured: a training step, without the optimizer, and a forward pass that returns [1, C, H, W]."""
    latents, target, t, text = inputs

    def predict() -> Tensor:
        if side == "ours":
            return model(latents[:, :, None], t, text)[:, :, 0]
        return model(latents, text.embeds, text.pooled, 1000 * t, return_dict=False)[0]

    def training() -> None:
        F.mse_loss(predict(), target).backward()

    return {"training": training, "inference": torch.no_grad()(predict)}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|, of all numbers together."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def in_turns(
    works: dict[str, Callable[[], Any]], repeats: int, device: torch.device, models: Iterable[nn.Module]
) -> dict[str, list[float]]:
    """Seconds of each, measured one after the other in every round, after warm-up rounds; gradients start as None."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-WARM_UPS, repeats):
        for name, work in works.items():
            for model in models:
                model.zero_grad(set_to_none=True)
            taken = time_of(work, device)
            if repeat >= 0:
                seconds[name].append(taken)
    for model in models:
        model.zero_grad(set_to_none=True)
    return seconds


def time_of(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds, to the end of all that the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The medians, their ratio ours / theirs, and the smallest and largest ratio within a round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours_seconds": ours, "theirs_seconds": theirs, "ours_median": median(ours), "theirs_median": median(theirs),
        "ratio": median(ours) / median(theirs), "ratio_min": min(ratios), "ratio_max": max(ratios),
    }  # fmt: skip


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several large products of square matrices: what the device can reach at best."""
    best = 0.0
    for size in MATMUL_SIZES[device.type]:
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        seconds = min(time_of(lambda a=a, b=b: a @ b, device) for _ in range(5))  # type: ignore[misc]
        best = max(best, 2 * size**3 / seconds)
    return best


def count_flops(work: Callable[[], Any]) -> int:
    """Of the matrix products; a multiplication and an addition are two.

    torch counts those of linear layers and of attention on a GPU, but not of attention on a CPU: this is added by its
    closed form, 4 S S' K for a head, and 2.5 times as much for the backward pass, which computes the scores again.
    """
    aten = torch.ops.aten
    of_attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=of_attention) as counter:
        work()
    return counter.get_total_flops()


def _attention_flops(q: Sequence[int], k: Sequence[int], *_: Any, **__: Any) -> int:
    batch, heads, num_queries, head_size = q
    return 4 * batch * heads * num_queries * k[2] * head_size


def _attention_backward_flops(_: Any, q: Sequence[int], k: Sequence[int], *__: Any, **___: Any) -> int:
    return _attention_flops(q, k) * 5 // 2


def speed_table(speed: dict[str, Any]) -> str:
    sizes = speed["sizes"]
    lines = [
        f"{sizes['parameters'] / 1e6:.0f} M parameters, width {sizes['hidden_size']}, depth {sizes['depth']}, "
        f"{sizes['tokens']} + {sizes['text_tokens']} tokens; medians of {speed['repeats']}",
        f"{'':24}{'ours':>11}{'diffusers':>11}{'ratio':>8}{'min to max':>17}{'MFU ours':>10}{'diffusers':>11}"
        f"{'ceiling':>14}{'rel. error':>12}",
    ]
    for row in speed["rows"]:
        lines.append(
            f"{row['precision']:5}{row['mode']:9}{row['work']:10}"
            f"{row['ours_median'] * 1e3:>8.0f} ms{row['theirs_median'] * 1e3:>8.0f} ms{row['ratio']:>8.3f}"
            f"{row['ratio_min']:>8.3f} to {row['ratio_max']:.3f}{row['ours_mfu']:>10.1%}{row['theirs_mfu']:>11.1%}"
            f"{row['ceiling_flops_per_second'] / 1e12:>7.2f} TFLOP/s{row['relative_error']:>12.1e}"
        )
    return "\n".join(lines)


# Memory


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a training step against the number of tokens, for all four ways to save memory or not.

    The plain model is measured at the lengths that were asked for. What it needs at the longest is the others' budget:
    they go on to longer sequences until they exceed it.
    """
    plain = {"hidden_size": args.memory_hidden_size, "depth": args.memory_depth}
    plain |= {"num_heads": args.memory_hidden_size // HEAD_SIZE, "patch_size": (1, PATCH, PATCH)}
    chunked = {"feed_forward_chunk_size": args.chunk_size}
    recomputed = {"recompute_blocks": args.memory_depth}
    variants = {"plain": {}, "chunked": chunked, "recomputed": recomputed, "both": chunked | recomputed}
    lengths = sorted(set(args.memory_tokens))
    budget = 0
    measured: dict[str, dict[str, list[int]]] = {}
    for name, keys in variants.items():
        tokens, peaks = list(lengths), []
        for length in tokens:
            say(f"memory, {name}: {length} tokens")
            peaks.append(step_in_own_process(plain | keys, length, args.text_tokens, args.memory_precision))
            if length == tokens[-1] and peaks[-1] < budget:
                tokens.append(length * 3 // 2)
        budget = budget or peaks[-1]
        measured[name] = {"tokens": tokens, "bytes": peaks}
    at_budget = {name: tokens_within(budget, *rows.values()) for name, rows in measured.items()}
    return {
        "sizes": {
            "hidden_size": args.memory_hidden_size, "depth": args.memory_depth, "text_tokens": args.text_tokens,
            "chunk_size": args.chunk_size, "precision": args.memory_precision,
        },
        "variants": measured,
        "budget_bytes": budget,
        "tokens_within_budget": at_budget,
        "ratio_to_plain": {name: tokens / lengths[-1] for name, tokens in at_budget.items()},
    }  # fmt: skip


def tokens_within(budget: float, tokens: Sequence[int], peaks: Sequence[float]) -> float:
    """How many tokens the budget allows, between two measured lengths linearly; `peaks` ascend to it or beyond."""
    if budget <= peaks[0]:
        return float(tokens[0])
    upper = next(index for index, peak in enumerate(peaks) if peak >= budget)
    low, high = peaks[upper - 1], peaks[upper]
    return tokens[upper - 1] + (tokens[upper] - tokens[upper - 1]) * (budget - low) / (high - low)


def step_in_own_process(keys: dict[str, Any], tokens: int, text_tokens: int, precision: str) -> int:
    """`measure_step` in a fresh process, whose memory shows nothing of earlier measurements.

    Raises:
        UserError: the process failed; what it had to say is on stderr.
    """
    command = [sys.executable, __file__, "model-memory-worker", json.dumps(keys), tokens, text_tokens, precision]
    # glibc maps tensors on their own, and gives them back when they are freed: else its heap grows holes.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if result.returncode:
        raise UserError(
            f"a training step with {tokens} tokens failed: if memory ran out, use fewer or smaller --memory-tokens, or "
            "a smaller --memory-hidden-size or --memory-depth"
        )
    return int(result.stdout)


def measure_step(keys: dict[str, Any], tokens: int, text_tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes at the peak of a training step beyond weights and gradients, which a shorter step before it has made.

    Args:
        keys: of [model].
    """
    torch.manual_seed(0)
    grid = near_square(tokens)
    shorter = near_square(min(tokens, 2 * keys.get("feed_forward_chunk_size", 1)))  # long enough to load all code
    model = VideoDiT(
        ModelConfig(**keys), channels=CHANNELS, text_width=TEXT_WIDTH, pooled_width=POOLED_WIDTH, trained_grid=grid
    ).to(device, dtype)

    def step(grid: Grid) -> None:
        latents = torch.randn(1, CHANNELS, 1, grid.height * PATCH, grid.width * PATCH).to(device, dtype)
        text = random_text(text_tokens, device, dtype)
        F.mse_loss(model(latents, torch.full((1,), 0.5, device=device), text), latents).backward()

    step(shorter)
    return peak_memory(lambda: step(grid), device)


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Bytes in use at the peak of `work` beyond those in use before; on a CPU, the process's resident ones.

    The kernel's own mark is read, not `ru_maxrss`, which a process inherits from the one that started it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark falls to what is resident now (proc(5))
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def memory_table(memory: dict[str, Any]) -> str:
    sizes, variants = memory["sizes"], memory["variants"]
    lengths = sorted({length for rows in variants.values() for length in rows["tokens"]})
    lines = [
        f"MB at the peak of a training step beyond weights and gradients: width {sizes['hidden_size']}, "
        f"depth {sizes['depth']}, {sizes['precision']}, chunks of {sizes['chunk_size']} tokens",
        f"{'tokens':>8}" + "".join(f"{name:>12}" for name in variants),
    ]
    for length in lengths:
        of_length = [dict(zip(*rows.values(), strict=True)).get(length) for rows in variants.values()]
        lines.append(f"{length:>8}" + "".join(f"{'' if x is None else f'{x / 1e6:.0f}':>12}" for x in of_length))
    lines.append(f"tokens in the {memory['budget_bytes'] / 1e6:.0f} MB that the plain model needs at its longest:")
    lines.append(" " * 8 + "".join(f"{tokens:>12.0f}" for tokens in memory["tokens_within_budget"].values()))
    lines.append(" " * 8 + "".join(f"{ratio:>11.2f}x" for ratio in memory["ratio_to_plain"].values()))
    return "\n".join(lines)


def memory_chart(memory: dict[str, Any]) -> Image.Image:
    series = {
        f"{name} ({memory['ratio_to_plain'][name]:.1f}x tokens)": [
            (tokens, peak / 1e6) for tokens, peak in zip(*rows.values(), strict=True)
        ]
        for name, rows in memory["variants"].items()
    }
    return line_chart(series, "video tokens", "MB", memory["budget_bytes"] / 1e6)


if __name__ == "__main__":
    run_program(main)
