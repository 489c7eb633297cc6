"""The dictionary that DeepSpeed is told: derived from the run's config, and what of it DeepSpeed cannot do."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from video_dit.config import Config, TrainingConfig
from video_dit.errors import UserError

_BATCH = "training.batch_size and training.micro_batch_size"
_INSTEAD = {
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "scheduler": "training.schedule, training.warmup_steps and training.learning_rate",
    "amp": "training.precision",
    "bfloat16": "training.precision",
}
"""What the run must know, by the names that DeepSpeed has for it."""

_TABLES = ("zero_optimization", "optimizer", "fp16", "bf16")


def deepspeed_config(config: Config, num_ranks: int) -> dict[str, Any]:
    """What DeepSpeed is told: derived from the run's config, with the [deepspeed] table merged over it.

    Raises:
        UserError: the ranks do not divide the batch, the table says something that the run must know, or DeepSpeed
            cannot do all of it together.
    """
    training = config.training
    for key, instead in _INSTEAD.items():
        if key in config.deepspeed:
            raise UserError(f"deepspeed.{key}: set {instead} instead")
    for key in _TABLES:
        if not isinstance(config.deepspeed.get(key, {}), Mapping):
            raise UserError(f"deepspeed.{key} is {config.deepspeed[key]!r}, and must be a table: see DeepSpeed's docs")
    clipping = config.deepspeed.get("gradient_clipping", 0.0)
    if not isinstance(clipping, (int, float)):
        raise UserError(f"deepspeed.gradient_clipping is {clipping!r}, and must be a number")
    for precision in ("fp16", "bf16"):  # DeepSpeed's own, which has weights of 16 bits and no others beside them
        if config.deepspeed.get(precision, {}).get("enabled") is True:
            raise UserError(f"deepspeed.{precision}.enabled: set training.precision='{precision}' instead")
    if not config.deepspeed.get("zero_optimization", {}).get("compute_grad_norm", True):
        raise UserError(
            "deepspeed.zero_optimization.compute_grad_norm is false, and must be true: it is how a step whose gradient "
            "is not finite is found and left out"
        )
    derived = {
        "train_batch_size": training.batch_size * training.sequence_parallel,  # as ranks that share clips are not known
        "train_micro_batch_size_per_gpu": micro_batch_size(config, num_ranks),
        "gradient_clipping": training.gradient_clipping,
        "zero_optimization": _zero(training),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled at the first start; PyTorch's need not be
        "torch_autocast": {
            "enabled": training.precision != "fp32",
            "dtype": "float16" if training.precision == "fp16" else "bfloat16",
            "lower_precision_safe_modules": [],  # whose gradients would be summed in this
        },
        "steps_per_print": 10**9,
    }
    _check_names(config.deepspeed, {*derived, *_INSTEAD, *_TABLES})
    settings = merge(derived, config.deepspeed)
    _check(config, settings)
    return settings


def _zero(training: TrainingConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": training.zero_stage}
    if training.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": training.offload_optimizer}
    if training.offload_parameters != "none":
        zero["offload_param"] = {"device": training.offload_parameters}
    return zero


def micro_batch_size(config: Config, num_ranks: int) -> int:
    """Samples per rank and forward pass.

    Raises:
        UserError: the ranks and micro-batches do not divide the batch, or the ranks not into those that share clips.
    """
    batch_size, sharing = config.training.batch_size, config.training.sequence_parallel
    if num_ranks % sharing or config.model.num_heads < sharing:
        raise UserError(
            f"training.sequence_parallel is {sharing}, which must divide the {num_ranks} ranks and be at most "
            f"model.num_heads = {config.model.num_heads}"
        )
    num_ranks //= sharing
    micro = config.training.micro_batch_size or batch_size // num_ranks
    if micro == 0 or batch_size % (micro * num_ranks):
        sharers = f"groups of {sharing} ranks" if sharing > 1 else "ranks"
        raise UserError(
            f"training.batch_size is {batch_size}, which is not a multiple of {num_ranks} {sharers} x micro-batches of "
            f"{max(1, micro)}: change training.batch_size, training.micro_batch_size or the number of ranks"
        )
    return micro


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_tables else value
    return merged


def offloaded_to(zero: Mapping[str, Any], what: Literal["offload_optimizer", "offload_param"]) -> str:
    """none, cpu or nvme, of the table "zero_optimization".

    Raises:
        UserError: the table says it in another way.
    """
    table = zero.get(what) or {}
    if not isinstance(table, Mapping):
        raise UserError(
            f"deepspeed.zero_optimization.{what} is {table!r}, and must be a table such as {{device = 'cpu'}}"
        )
    return str(table.get("device", "none"))


def _check_names(table: Mapping[str, Any], known: set[str]) -> None:
    """DeepSpeed says nothing of a key that it does not know; those that it knows beside these are like none of them.

    Raises:
        UserError: one is a known one misspelt.
    """
    for key in table.keys() - known:
        for near in get_close_matches(key, known, n=1, cutoff=0.85):
            raise UserError(f"deepspeed.{key} is not known: is deepspeed.{near} meant?")


def _check(config: Config, settings: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: DeepSpeed cannot do all of it together.
    """
    training, zero, clipping = config.training, settings["zero_optimization"], settings["gradient_clipping"]
    clipped_by = "deepspeed" if "gradient_clipping" in config.deepspeed else "training"
    stage, optimizer, parameters = (
        zero["stage"],
        offloaded_to(zero, "offload_optimizer"),
        offloaded_to(zero, "offload_param"),
    )
    offload = f"training.offload_optimizer is {optimizer!r}"
    refused = [
        (
            optimizer != "none" and stage == 0,
            f"{offload}, which needs training.zero_stage 1, 2 or 3, not 0",
        ),
        (
            # Tried: weights came back rounded to bf16, and gradients of 2 MiB and more were wrong (docs/training.md).
            "nvme" in (optimizer, parameters),
            "deepspeed.zero_optimization offloads to 'nvme', where DeepSpeed 0.19.8 computes wrong numbers: use 'cpu'",
        ),
        (
            parameters != "none" and stage != 3,
            f"training.offload_parameters is {parameters!r}, which needs training.zero_stage 3, not {stage}",
        ),
        (
            training.optimizer == "muon" and stage == 3,
            "training.optimizer is 'muon', which needs training.zero_stage 0, 1 or 2, not 3",
        ),
        (
            # Under ZeRO 1 and 2 DeepSpeed clips Muon's updates, whose norm is large by design, and not the gradients.
            training.optimizer == "muon" and clipping > 0,
            f"{clipped_by}.gradient_clipping is {clipping:g}, and must be 0 where training.optimizer is 'muon'",
        ),
    ]
    for condition, message in refused:
        if condition:
            raise UserError(message)


def check_device(training: TrainingConfig, has_gpu: bool) -> None:
    """
    Raises:
        UserError: the machine cannot compute as the config says.
    """
    if training.precision == "fp16" and not has_gpu:
        raise UserError("training.precision is 'fp16', which needs a GPU, and none was found: use 'bf16' or 'fp32'")
