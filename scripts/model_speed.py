"""A training step and a forward pass of one architecture, ours and diffusers' in turns."""

import argparse
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from model_inputs import CHANNELS, HEAD_SIZE, PATCH, POOLED_WIDTH, TEXT_WIDTH, near_square, random_text, say
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from video_dit.contracts import TextCondition
from video_dit.models import VideoDiT
from video_dit.precision import DTYPES

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative error at which both sides compute the same: rounding passes, another architecture does not."""

COMPARED = (("eager", "eager"), ("compiled", "eager"), ("compiled", "compiled"))
"""The mode of ours, and that of diffusers."""

KERNELS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "attention")
"""Matrix products and attention, in the profiler's names or parts of them: what both sides leave to torch's kernels."""

MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
WARM_UPS = 2

Key = TypeVar("Key")


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
        works = {side: workloads(side, model, inputs) for side, model in models.items()}
        flops = {side: {work: count_flops(run) for work, run in of_side.items()} for side, of_side in works.items()}
        shares = {work: kernels_share(run) for work, run in works["theirs"].items()}
        ceiling = matmul_ceiling(device, DTYPES[precision])
        of_precision = measure_modes(args.modes, models, inputs, args.repeats)
        ceiling = max(ceiling, matmul_ceiling(device, DTYPES[precision]))
        for row in of_precision:
            row |= {"precision": precision, "ceiling_flops_per_second": ceiling}
            for side in models:
                row[f"{side}_flops"] = flops[side][row["work"]]
                row[f"{side}_mfu"] = row[f"{side}_flops"] / row[f"{side}_median"] / ceiling
            if row["theirs_mode"] == "eager":
                row["floor"] = shares[row["work"]] * row["ours_flops"] / row["theirs_flops"]
        rows += of_precision
        torch.compiler.reset()
    sizes = {name: getattr(args, name) for name in ("hidden_size", "depth", "tokens", "text_tokens")}
    sizes["parameters"] = sum(parameter.numel() for parameter in models["ours"].parameters())
    return {"sizes": sizes, "repeats": args.repeats, "rows": rows}


def measure_modes(
    modes: Sequence[str], models: dict[str, nn.Module], inputs: Inputs, repeats: int
) -> list[dict[str, Any]]:
    """A row for each workload and each of `COMPARED` whose modes are wanted.

    Raises:
        RuntimeError: the two sides compute different functions.
    """
    works = {
        (side, mode): workloads(side, torch.compile(model) if mode == "compiled" else model, inputs)
        for mode in modes
        for side, model in models.items()
    }
    pairs = [pair for pair in COMPARED if set(pair) <= set(modes)]
    outputs = {key: of_key["inference"]() for key, of_key in works.items()}
    errors = {pair: relative_error(outputs["ours", pair[0]], outputs["theirs", pair[1]]) for pair in pairs}
    tolerance = TOLERANCES[inputs.latents.dtype]
    if not max(errors.values()) < tolerance:
        raise RuntimeError(
            f"with the same weights, the outputs differ by {max(errors.values()):.1e} relatively, more than "
            f"{tolerance:.0e}: times of different functions are not compared"
        )
    rows = []
    for work in ("training", "inference"):
        say(f"{work}: warming up, then measuring")
        of_work = {key: of_key[work] for key, of_key in works.items()}
        seconds = in_turns(of_work, repeats, inputs.t.device, models.values())
        for pair in pairs:
            row = {"work": work, "ours_mode": pair[0], "theirs_mode": pair[1], "relative_error": errors[pair]}
            rows.append(row | compare(seconds["ours", pair[0]], seconds["theirs", pair[1]]))
    return rows


def import_diffusers() -> Any:
    """The peer, without its warnings."""
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


def random_inputs(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(1)
    _, height, width = near_square(args.tokens)
    latents, target = torch.randn(2, 1, CHANNELS, height * PATCH, width * PATCH).to(device, dtype)
    return Inputs(latents, target, torch.full((1,), 0.5, device=device), random_text(args.text_tokens, device, dtype))


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
    works: dict[Key, Callable[[], Any]], repeats: int, device: torch.device, models: Iterable[nn.Module]
) -> dict[Key, list[float]]:
    """Seconds of each, measured one after the other in every round, after warm-up rounds; gradients start as None."""
    seconds: dict[Key, list[float]] = {name: [] for name in works}
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
    """Seconds, to the end of all that the device was asked to do.

    On one thread of a CPU they are the process's own, in which what else the machine does hardly counts.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


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


def kernels_share(work: Callable[[], Any]) -> float:
    """The share of the time of `work` that is spent in `KERNELS`, of the operators' own times in torch's profiler."""
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiler:
        work()
    own_time = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    operators = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    of_kernels = [event for event in operators if any(name in event.key for name in KERNELS)]
    return float(sum(getattr(event, own_time) for event in of_kernels)) / sum(
        getattr(event, own_time) for event in operators
    )


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
        "floor: the ratio if ours did nothing but its matrix products and attention, as fast as diffusers does its own",
        f"{'':16}{'ours':>9} / {'diffusers':10}{'ours':>8}{'diffusers':>12}{'ratio':>8}{'min to max':>17}{'floor':>7}"
        f"{'MFU ours':>10}{'diffusers':>11}{'ceiling':>14}{'rel. error':>12}",
    ]
    for row in speed["rows"]:
        floor = f"{row['floor']:.3f}" if "floor" in row else ""
        lines.append(
            f"{row['precision']:6}{row['work']:10}{row['ours_mode']:>9} / {row['theirs_mode']:9}"
            f"{row['ours_median'] * 1e3:>6.0f} ms{row['theirs_median'] * 1e3:>9.0f} ms{row['ratio']:>8.3f}"
            f"{row['ratio_min']:>9.3f} to {row['ratio_max']:.3f}{floor:>7}"
            f"{row['ours_mfu']:>10.1%}{row['theirs_mfu']:>11.1%}"
            f"{row['ceiling_flops_per_second'] / 1e12:>6.2f} TFLOP/s{row['relative_error']:>12.1e}"
        )
    return "\n".join(lines)
