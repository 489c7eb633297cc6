"""What train.py --plan says, before anything is started."""

import argparse

from data.dataset_info import DatasetInfo
from video_dit.config import load_config
from video_dit.training.devices import RESERVED, Devices
from video_dit.training.plan import Plan, changes_that_fit, plan_training


def _amount(number: float, unit: str) -> str:
    """With three digits and a prefix, such as "12.3 GB"."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return (
                f"{number / size:.3g} {prefix}{unit}" if number < 1e3 * size else f"{number / size:,.0f} {prefix}{unit}"
            )
    return f"{number / 1e3:.3g} k{unit}"


def _row(name: str, amount: str) -> str:
    return f"  {name:<40}{amount:>12}"


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
    print(f"{args.data}: planned for clips of {name} pixels, which need the most memory of {len(buckets)} shape(s)")
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
            print(f"  {change.what}\n      {_amount(change.plan.memory.total, 'B')}; price: {change.price}", flush=True)
        if none:
            print("  none by itself: use two, a smaller model or shorter clips")
    print("memory is computed from shapes; of GPUs and their times nothing here has been measured: they are estimates")


def _model(plan: Plan) -> str:
    parts = [_row(part, _amount(count, "")) for part, count in plan.parameters.items()]
    trained = f", {plan.num_trained:,} of them trained" if plan.num_trained < plan.num_parameters else ""
    return "\n".join([f"parameters: {plan.num_parameters:,}{trained}", *parts])


def _step(plan: Plan, devices: Devices, utilisation: float) -> str:
    samples, flops = plan.config.training.batch_size, plan.flops
    rows = [
        f"one step: {samples} clips of {plan.tokens.size + plan.text_length:,} tokens; each of {plan.num_ranks} ranks "
        f"computes {plan.micro_batches} x {plan.micro_batch}",
        _row("linear layers, forward and backward", _amount(flops.linear * samples, "FLOP")),
        _row("attention, with its pattern", _amount(flops.attention * samples, "FLOP")),
        _row("computed again", _amount(flops.recomputed * samples, "FLOP") if flops.recomputed else "nothing"),
    ]
    peak = devices.peak_flops(plan.config.training.precision)
    if plan.step_seconds is None or peak is None:
        rows.append(_row("time", "unknown") + f": the peak of {devices.name} is not in the table")
    else:
        mfu = utilisation * flops.model / (flops.model + flops.recomputed)
        rows.append(
            _row("time, without that of communication", f"{plan.step_seconds:.3g} s")
            + f" at {utilisation:.0%} of {_amount(peak, 'FLOP/s')} each, which is an MFU of {mfu:.0%}"
        )
    return "\n".join(rows)


def _memory(plan: Plan) -> str:
    memory = plan.memory
    always = {
        "weights": memory.weights,
        "master weights": memory.master_weights,
        "moments of the optimizer": memory.moments,
        "averaged weights": memory.averages,
    }
    phases = sorted(memory.phases.items(), key=lambda item: -item[1])
    rows = [f"memory of each rank, ZeRO {plan.zero_stage}, {plan.config.training.precision}"]
    rows += [_row(part, _amount(size, "B")) for part, size in always.items() if size]
    rows += [
        _row(f"{'or' if index else 'and'} for {phase}", _amount(size, "B"))
        for index, (phase, size) in enumerate(phases)
        if size
    ]
    if memory.checkpoint:
        rows.append(_row("and while a checkpoint is written", _amount(memory.checkpoint, "B")))
    rows.append(_row("at the peak", _amount(memory.total, "B")))
    if memory.host:
        rows.append(_row("in the machine's memory", _amount(memory.host, "B")))
    return "\n".join(rows)


def _verdict(plan: Plan, devices: Devices, fits: bool) -> str:
    told = (
        f"{'fits' if fits else 'DOES NOT FIT'} {devices}: {_amount(plan.memory.total, 'B')} of "
        f"{_amount(devices.usable, 'B')} ({RESERVED:.0%} are left to the driver and to gaps)"
    )
    if plan.memory.host and devices.host_memory is not None:
        told += f", and {_amount(plan.memory.host, 'B')} of {_amount(devices.host_memory, 'B')} of the machine's memory"
    return told
