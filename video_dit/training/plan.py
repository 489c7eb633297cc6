"""What a run needs before it is started: operations, memory of each rank, time of a step, and what would make it fit.

The memory is what DeepSpeed 0.19 and `training/engine.py` keep. P is the number of weights, T that of those that are
trained, N that of ranks; all weights, gradients and moments are fp32, also under bf16 autocast:

| ZeRO | weights | master weights | moments | averages | gradients |
|---|---|---|---|---|---|
| 0 | 4 P | | 8 T | 4 T | 4 T |
| 1 | 4 P | 4 T / N | 8 T / N | 4 T | 4 T, then 4 T / N |
| 2 | 4 P | 4 T / N | 8 T / N | 4 T | 4 T / N |
| 3 | 4 P / N | 4 T / N | 8 T / N | 4 T / N | 4 T / N |

The moments of `adamw_8bit` are about 2 T where others' are 8 T. To these comes what one phase of a step needs alone:
forward and backward (`training/activations.py`, and under ZeRO 3 the weights that are gathered and the gradients that
are being reduced), the reduction of the gradients, the optimizer, or the model that samples are made with; the largest
decides. While a checkpoint is written, what it holds is in the machine's memory once more, which on CPUs is the ranks'.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch._subclasses import FakeTensorMode

from video_dit.config import Config, with_changes
from video_dit.contracts import EncodedShape
from video_dit.errors import UserError
from video_dit.models import VideoDiT
from video_dit.models.trained import ParameterCounts, parameter_counts
from video_dit.shapes import Grid, token_grid
from video_dit.training.activations import shapes_of_model, trace_step
from video_dit.training.adamw_8bit import BYTES_PER_VALUE, CHUNK, CHUNK_BYTES_PER_VALUE
from video_dit.training.deepspeed_config import deepspeed_config, micro_batch_size, offloaded_to
from video_dit.training.devices import Devices
from video_dit.training.flops import StepFlops, step_flops

FP32 = 4
"""Bytes."""
ALLREDUCE_BUCKET = 500_000_000
"""Elements that DeepSpeed copies at a time to sum gradients without ZeRO (`engine.allreduce_gradients`)."""
_DEFAULTS = {
    "reduce_bucket_size": 5e8, "stage3_max_live_parameters": 1e9, "stage3_prefetch_bucket_size": 5e7,
    "stage3_param_persistence_threshold": 1e5,
}  # fmt: skip
"""Elements; DeepSpeed's (`runtime/zero/config.py`)."""


class Memory(NamedTuple):
    """Bytes on one rank's device.

    weights, master_weights, moments, averages: there all the time.
    phases: beyond these, what each phase of a step needs at its peak: activations, gradients and buffers.
    checkpoint: a rank's share of the copy that one is written from while training goes on; of a GPU's it is in `host`.
    host: bytes of a GPU's rank in the machine's memory, and on CPUs what is offloaded.
    """

    weights: int
    master_weights: int
    moments: int
    averages: int
    phases: dict[str, int]
    checkpoint: int
    host: int

    @property
    def of_step(self) -> int:
        """At the peak of a step, or of sampling."""
        return self.weights + self.master_weights + self.moments + self.averages + max(self.phases.values())

    @property
    def total(self) -> int:
        """At its peak while a checkpoint is written."""
        return self.of_step + self.checkpoint


class Plan(NamedTuple):
    """Of the bucket that needs the most memory.

    parameters: by part of the model, adapters among them.
    num_trained: of all these.
    latents, tokens: the bucket's grids.
    micro_batch, micro_batches: samples of a forward pass, and how many of these a step has on each rank.
    flops: of one sample.
    memory: of one rank.
    step_seconds: None where the devices' peak is not known.
    """

    config: Config
    num_ranks: int
    parameters: dict[str, int]
    num_trained: int
    latents: Grid
    tokens: Grid
    text_length: int
    micro_batch: int
    micro_batches: int
    flops: StepFlops
    memory: Memory
    step_seconds: float | None

    @property
    def zero_stage(self) -> int:
        """Which [deepspeed] may say."""
        return int(deepspeed_config(self.config, self.num_ranks)["zero_optimization"]["stage"])

    @property
    def num_parameters(self) -> int:
        return sum(self.parameters.values())


class Change(NamedTuple):
    """One change that makes a run fit, as the user makes it, and what it costs."""

    what: str
    price: str
    plan: Plan


def plan_training(
    config: Config, encoded: EncodedShape, buckets: Sequence[Grid], devices: Devices, utilisation: float
) -> Plan:
    """The plan of the bucket whose steps need the most memory.

    That is one of the largest clips also where smaller ones have larger batches, as these have no more tokens.

    Args:
        config: of the run.
        encoded: what its encoders make.
        buckets: latent grids of its clips.
        devices: one for each rank.
        utilisation: share of the devices' peak that a step is expected to reach, with what is computed again.

    Raises:
        UserError: the ranks do not divide the batch, a clip does not fit the model, or DeepSpeed cannot do this.
    """
    deepspeed_config(config, devices.count)
    with FakeTensorMode():
        model = shapes_of_model(config, encoded)
    plans = [_plan_bucket(config, encoded, model, latents, devices, utilisation) for latents in buckets]
    return max(plans, key=lambda plan: plan.memory.total)


def _plan_bucket(
    config: Config, encoded: EncodedShape, model: VideoDiT, latents: Grid, devices: Devices, utilisation: float
) -> Plan:
    tokens = token_grid(latents, config.model.patch_size)
    model.position_embedding.check_fits(tokens)
    sharing = config.training.sequence_parallel
    micro_batch = micro_batch_size(config, devices.count)
    micro_batches = config.training.batch_size * sharing // (micro_batch * devices.count)
    flops = step_flops(model, tokens, encoded.text_length, config.diffusion.per_frame_noise)
    parameters = {
        "blocks": _count(model.backbone),
        "embeddings": _count(model.video_embedder, model.text_embedder, model.position_embedding),
        "conditioning": _count(model.conditioning_embedder),
        "output": _count(model.norm_out, model.proj_out),
    }
    counts = parameter_counts(model)
    memory = rank_memory(config, encoded, latents, devices, counts, micro_batch, micro_batches)
    peak = devices.peak_flops(config.training.precision)
    per_rank = (flops.model + flops.recomputed) * micro_batch * micro_batches / sharing
    seconds = None if peak is None else per_rank / (peak * utilisation)
    return Plan(
        config, devices.count, parameters, counts.trained, latents, tokens, encoded.text_length, micro_batch,
        micro_batches, flops, memory, seconds,
    )  # fmt: skip


def _count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def rank_memory(
    config: Config,
    encoded: EncodedShape,
    latents: Grid,
    devices: Devices,
    parameters: ParameterCounts,
    micro_batch: int,
    micro_batches: int,
) -> Memory:
    """What one of the ranks keeps; see the module.

    Args:
        config: of the run; its [deepspeed] too is read.
        encoded: what its encoders make.
        latents: the grid of the clips.
        devices: one for each rank.
        parameters: of the model.
        micro_batch: samples of a forward pass.
        micro_batches: forward passes of a step.
    """
    zero = {**_DEFAULTS, **deepspeed_config(config, devices.count)["zero_optimization"]}
    stage, num_ranks = zero["stage"], devices.count
    offloads = stage >= 1 and offloaded_to(zero, "offload_optimizer") != "none"
    offloads_weights = stage == 3 and offloaded_to(zero, "offload_param") != "none"
    weights = FP32 * (ceil(parameters.all / num_ranks) if stage == 3 else parameters.all)
    whole = FP32 * parameters.trained
    shard = FP32 * ceil(parameters.trained / num_ranks)
    bucket = int(FP32 * zero["reduce_bucket_size"]) * (2 if zero.get("overlap_comm") else 1)
    accumulates = micro_batches > 1

    def passes(share: float) -> int:
        keep_weights = stage < 3  # as the engine has it
        return trace_step(_for_device(config, devices), encoded, latents, micro_batch, share, keep_weights)

    if stage == 0:
        backward = whole + passes(0) if accumulates else passes(1)
        reduction, optimizer = whole + min(whole, FP32 * ALLREDUCE_BUCKET), whole
    elif stage == 1:
        backward = bucket + (whole + passes(0) if accumulates else passes(1))
        reduction, optimizer = whole + shard + bucket, 2 * shard
    elif stage == 2:
        there = shard if accumulates and not offloads else 0
        backward = bucket + there + passes(0 if offloads else 1 / num_ranks)
        reduction, optimizer = bucket + there + shard, 2 * shard
    else:
        there = bucket + (0 if offloads else shard)
        backward = there + passes(0)
        if num_ranks > 1 or offloads_weights:
            backward += _gathered(zero, parameters)
        if num_ranks > 1:
            backward += _reduced(zero, parameters)
        reduction, optimizer = there + bucket, there + shard
    sharded = 0 if stage == 0 else shard
    moments = 2 * whole if stage == 0 else 2 * shard
    if config.training.optimizer == "adamw_8bit":
        optimizer += CHUNK_BYTES_PER_VALUE * min(CHUNK, max(parameters.of_trained) if stage == 0 else shard // FP32)
        moments = int(moments * BYTES_PER_VALUE / FP32)
    # The first rank alone samples, and writes the averages; on CPUs the ranks share the machine's memory.
    sharers = 1 if devices.is_gpu else num_ranks
    sampling = ceil(FP32 * parameters.all / sharers) if config.training.sample_every else 0
    phases = {
        "forward and backward": backward, "reduction": reduction, "optimizer": 0 if offloads else optimizer,
        "sampling": sampling,
    }  # fmt: skip
    num_averages = 1 + len(config.training.ema_widths)
    averages = num_averages * (shard if stage == 3 else whole)
    host = (sharded + moments + shard if offloads else 0) + (weights + averages if offloads_weights else 0)
    checkpoint = 3 * shard + ceil(num_averages * whole / num_ranks)
    if devices.is_gpu:  # every rank makes the model in the machine's memory before it is moved, or spread
        host, checkpoint = max(host + checkpoint, FP32 * parameters.all), 0
    if offloads_weights:
        weights = averages = 0
    return Memory(weights, 0 if offloads else sharded, 0 if offloads else moments, averages, phases, checkpoint, host)


def _gathered(zero: dict[str, Any], parameters: ParameterCounts) -> int:
    """Bytes of the weights that ZeRO 3 holds whole at a time, and of those that it fetches ahead.

    Small weights stay whole and are never fetched again.
    """
    live = min(parameters.all, zero["stage3_max_live_parameters"])
    fetched = sum(size for size in parameters.of_weights if size > zero["stage3_param_persistence_threshold"])
    return int(FP32 * (live + min(fetched, zero["stage3_prefetch_bucket_size"])))


def _reduced(zero: dict[str, Any], parameters: ParameterCounts) -> int:
    """Bytes that ZeRO 3 copies to reduce gradients: a bucket of them, or the largest beside its copy."""
    return int(FP32 * max(min(parameters.trained, zero["reduce_bucket_size"]), 2 * max(parameters.of_trained)))


def _for_device(config: Config, devices: Devices) -> Config:
    """On a GPU windows are computed by FlexAttention, which keeps what the full pattern keeps."""
    fused = devices.is_gpu and config.model.attention_backend in ("auto", "flex")
    if fused and config.model.attention_pattern == "window":
        return with_changes(config, "model", {"attention_pattern": "full"})
    return config


def changes_that_fit(
    plan: Plan, encoded: EncodedShape, buckets: Sequence[Grid], devices: Devices, utilisation: float
) -> Iterator[Change]:
    """The single changes under which a run fits that does not: of each kind the smallest.

    Args:
        plan: of the run, which does not fit.
        encoded, buckets, devices, utilisation: as for `plan_training`.
    """
    for kind in _single_changes(plan, devices):
        for what, price, config, changed_devices in kind:
            try:
                changed = plan_training(config, encoded, buckets, changed_devices, utilisation)
            except UserError:
                continue  # such ranks or micro-batches do not divide the batch
            if changed_devices.fits(changed.memory.total, changed.memory.host):
                yield Change(what, _price(price, plan, changed), changed)
                break


_Candidate = tuple[str, str, Config, Devices]

_AGAIN = "computes again"
"""A price whose share of operations is still to be told."""


def _single_changes(plan: Plan, devices: Devices) -> Iterator[Iterator[_Candidate]]:
    """Of each kind, candidates from small to large: what, its price in words, the config and the devices."""
    config, model, training = plan.config, plan.config.model, plan.config.training
    length = plan.tokens.size + plan.text_length

    def with_key(name: str, value: int | str, price: str) -> _Candidate:
        table, key = name.split(".")
        return f"{name}={value}", price, with_changes(config, table, {key: value}), devices

    depths = sorted({ceil(model.depth / 2), model.depth})
    yield (with_key("model.recompute_blocks", depth, _AGAIN) for depth in depths if depth > model.recompute_blocks)
    shortest = min(model.feed_forward_chunk_size or length, length)
    chunks = sorted({size for size in (length // 4, length // 16) if 0 < size < shortest}, reverse=True)
    yield (with_key("model.feed_forward_chunk_size", size, _AGAIN) for size in chunks)
    smaller = [size for size in range(plan.micro_batch - 1, 0, -1) if plan.micro_batch % size == 0]
    samples = plan.micro_batches * plan.micro_batch
    yield (
        with_key("training.micro_batch_size", size, f"{samples // size} forward passes a step, one after another")
        for size in smaller
    )
    highest = 2 if training.optimizer == "muon" else 3
    stages = range(training.zero_stage + 1, highest + 1) if devices.count > 1 else range(0)
    more = {1: "", 2: "", 3: "gathers the weights in each pass: about half as much again to send"}
    yield (
        with_key("training.zero_stage", stage, more[stage])
        for stage in stages
        if "stage" not in config.deepspeed.get("zero_optimization", {})
    )
    sharers = [training.sequence_parallel * 2**power for power in range(1, 5)]
    yield (
        with_key(
            "training.sequence_parallel",
            sharing,
            f"{sharing} devices to a clip: fewer clips at a time, and tokens sent twice in each block",
        )
        for sharing in sharers
        if sharing <= devices.count
    )
    counts = [devices.count * 2**power for power in range(1, 8)]
    yield (
        (f"{count} devices", f"{count // devices.count} times the devices", config, devices._replace(count=count))
        for count in counts
        if count <= training.batch_size
    )
    if training.optimizer == "adamw":
        yield iter(
            [with_key("training.optimizer", "adamw_8bit", "AdamW's averages are rounded, and its step is slower")]
        )
    if training.zero_stage >= 1 and training.offload_optimizer == "none" and training.optimizer != "muon":
        price = "the optimizer's step on the CPU, and gradients and weights over the bus each step"
        yield iter([with_key("training.offload_optimizer", "cpu", price)])
    if training.zero_stage == 3 and training.offload_parameters == "none":
        price = "weights over the bus in each pass, and their averages on the CPU"
        yield iter([with_key("training.offload_parameters", "cpu", price)])


def _price(price: str, before: Plan, after: Plan) -> str:
    """In words, with the share of operations where these change."""
    ratio = _operations(after) / _operations(before)
    return f"{ratio - 1:+.0%} operations" if price == _AGAIN else price or "none to speak of"


def _operations(plan: Plan) -> int:
    return plan.flops.model + plan.flops.recomputed
