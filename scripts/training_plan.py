"""What train.py --plan says, before anything is started."""

import argparse

from data.dataset_info import DatasetInfo
from video_dit.config import load_config
from video_dit.training.devices import RESERVED, Devices
from video_dit.training.plan import Plan, changes_that_fit, plan_training

GB = 1e9


def show_plan(args: argparse.Namespace) -> None:
    """Prints the plan of the run that train.py would start; nothing is allocated or started.

    Raises:
        UserError: there are no shards, or the run could not start.
    """
    info = DatasetInfo.read(args.data)
    config = load_config(args.config, args.overrides, fixed=info.tables)
    devices = Devices.here() if args.gpus is None else Devices.parse(args.gpus)
    buckets = [bucket.latents for bucket in info.buckets.values()]
    plan = plan_training(config, info.encoded, buckets, devices, args.utilisation)
    name = next(name for name, bucket in info.buckets.items() if bucket.latents == plan.latents)
    print(f"{args.data}: clips of {len(buckets)} shapes; {name} pixels need the most memory, and are planned for")
    print(_model(plan))
    print(_step(plan, devices, args.utilisation))
    print(_memory(plan))
    fits = devices.fits(plan.memory.total, plan.memory.host)
    print(_verdict(plan, devices, fits))
    if not fits:
        print("one change that would make it fit (each alone; computing them takes a while):", flush=True)
        none = True
        for change in changes_that_fit(plan, info.encoded, buckets, devices, args.utilisation):
            none = False
            print(f"  {change.what:<42}{change.plan.memory.total / GB:>8.2f} GB   {change.price}", flush=True)
        if none:
            print("  none by itself: use two, a smaller model or shorter clips")
    print("memory is computed from shapes; of GPUs and their times nothing here has been measured: they are estimates")


def _model(plan: Plan) -> str:
    rows = [f"parameters{plan.num_parameters / 1e6:>44.1f} M"]
    rows += [f"  {part:<40}{count / 1e6:>12.1f} M" for part, count in plan.parameters.items()]
    return "\n".join(rows)


def _step(plan: Plan, devices: Devices, utilisation: float) -> str:
    samples = plan.config.training.batch_size
    flops, tokens = plan.flops, plan.tokens.size + plan.text_length
    rows = [
        f"one step: {samples} clips of {tokens:,} tokens, on each of {plan.num_ranks} ranks {plan.micro_batches} x "
        f"{plan.micro_batch}",
        f"  {'linear layers, forward and backward':<40}{flops.linear * samples / 1e12:>12.3f} TFLOP",
        f"  {'attention, with its pattern':<40}{flops.attention * samples / 1e12:>12.3f} TFLOP",
        f"  {'computed again':<40}{flops.recomputed * samples / 1e12:>12.3f} TFLOP",
    ]
    if plan.step_seconds is None:
        rows.append(f"  {'time':<40}     unknown: the peak of {devices.name} is not in the table")
    else:
        peak = devices.peak_flops(plan.config.training.precision) or 0
        rows.append(
            f"  {'time':<40}{plan.step_seconds:>12.3f} s at {utilisation:.0%} of {peak / 1e12:g} TFLOP/s, "
            f"MFU {utilisation * flops.model / (flops.model + flops.recomputed):.0%}"
        )
    return "\n".join(rows)


def _memory(plan: Plan) -> str:
    memory = plan.memory
    largest = max(memory.phases, key=lambda phase: memory.phases[phase])
    rows = [f"memory of each rank, ZeRO {plan.config.training.zero_stage}, {plan.config.training.precision}"]
    parts = {
        "weights": memory.weights,
        "master weights": memory.master_weights,
        "moments of the optimizer": memory.moments,
        "averaged weights": memory.averages,
    }
    rows += [f"  {part:<40}{size / GB:>12.3f} GB" for part, size in parts.items()]
    rows += [
        f"  {('and' if phase == largest else 'or') + ' for ' + phase:<40}{size / GB:>12.3f} GB"
        for phase, size in sorted(memory.phases.items(), key=lambda item: -item[1])
    ]
    rows.append(f"  {'at the peak':<40}{memory.total / GB:>12.3f} GB")
    if memory.host:
        rows.append(f"  {'in the memory of the machine':<40}{memory.host / GB:>12.3f} GB")
    return "\n".join(rows)


def _verdict(plan: Plan, devices: Devices, fits: bool) -> str:
    return (
        f"{'fits' if fits else 'DOES NOT FIT'} {devices}: {plan.memory.total / GB:.2f} of {devices.usable / GB:.2f} GB "
        f"({RESERVED:.0%} are left to the driver and to gaps)"
    )
