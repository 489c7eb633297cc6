"""Peak memory of a training step against the number of tokens; run as a program, one such step."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from line_chart import line_chart
from model_inputs import CHANNELS, HEAD_SIZE, PATCH, POOLED_WIDTH, TEXT_WIDTH, near_square, random_text, say
from PIL import Image

from video_dit.config import ModelConfig
from video_dit.errors import UserError
from video_dit.models import VideoDiT
from video_dit.precision import DTYPES
from video_dit.shapes import Grid


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
    command = [sys.executable, __file__, json.dumps(keys), tokens, text_tokens, precision]
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keys, tokens, text_tokens, precision = sys.argv[1:]
    print(measure_step(json.loads(keys), int(tokens), int(text_tokens), DTYPES[precision], device))
