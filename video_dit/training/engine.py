"""DeepSpeed, and nothing else of the project knows it: starting ranks, ZeRO, weights that are sharded."""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from video_dit.config import Config, TrainingConfig
from video_dit.errors import RankError, UserError
from video_dit.models import VideoDiT
from video_dit.models.trained import named_weights, trained_of
from video_dit.parallel import SequenceGroup
from video_dit.training.adamw_8bit import AdamW8bit
from video_dit.training.allocator import keep_freed_memory
from video_dit.training.deepspeed_config import deepspeed_config
from video_dit.training.loss_scale import LossScale
from video_dit.training.muon_gradients import MuonGradients
from video_dit.training.optimizer_state import FragmentedState, OptimizerState, PartitionedState, Read, WholeState
from video_dit.training.piece_files import PieceName

# DeepSpeed reads these while it is imported; a user who sets them wins.
os.environ.setdefault("DS_LOG_LEVEL", "warning")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(deepspeed|torch)\..*")

import deepspeed  # noqa: E402
import deepspeed.ops  # noqa: E402
import deepspeed.runtime.compiler  # noqa: E402
from deepspeed.utils import set_z3_leaf_modules  # noqa: E402

# Muon's kernels would be compiled at the first step, which needs a compiler and takes longer than it saves. DeepSpeed
# looks at Muon whatever the optimizer is, and each start would import PyTorch's compiler.
deepspeed.runtime.compiler.compile = lambda: lambda function: function


NO_LIMIT = timedelta(days=365)
"""For collectives of training: its own limit is training.step_time_limit, which names the ranks that do not answer."""


@contextmanager
def ranks() -> Iterator[int]:
    """Joins the ranks that the launcher started, over NCCL on GPUs and gloo elsewhere; alone without a launcher.

    Yields:
        the rank of this process.
    """
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", "0" if os.environ["WORLD_SIZE"] == "1" else "29500")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # gloo serves; the shared-memory operation would be compiled at the first start, and needs a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        share = max(1, (os.cpu_count() or 1) // local_ranks)
        torch.set_num_threads(min(torch.get_num_threads(), share))  # OMP_NUM_THREADS may ask for fewer
        keep_freed_memory()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(minutes=30), verbose=False)
    yield dist.get_rank()
    dist.destroy_process_group()  # not after an error: a rank that fails must end, not wait for the others


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size()


def shared_store() -> dist.Store:
    """Of short texts, which all ranks share."""
    return dist.PrefixStore("video_dit", dist.distributed_c10d._get_default_store())


@contextmanager
def lost_ranks_told(rank: int) -> Iterator[None]:
    """
    Raises:
        RankError: another rank has ended, which is all that its connection tells.
    """
    try:
        yield
    except RuntimeError as error:  # as gloo raises it; NCCL's errors have a class of their own
        message = str(error).splitlines()[0]
        if not isinstance(error, dist.DistError) and "gloo" not in message:
            raise
        raise RankError(
            f"rank {rank} has lost another rank, which says why it ended or was killed ({message}); the same command "
            "goes on from the last checkpoint"
        ) from error


def build_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices of attention and feed-forward layers and AdamW elsewhere.

    The layers that start at zero are no matter for Muon, whose updates have the same size from the first step on.
    """
    settings = {"lr": training.learning_rate, "betas": training.betas, "weight_decay": training.weight_decay}
    if training.optimizer == "adamw":
        return torch.optim.AdamW(trained_of(model), **settings, fused=True)
    if training.optimizer == "adamw_8bit":
        return AdamW8bit(trained_of(model), **settings)

    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for name, parameter in model.named_parameters():
        parameter.use_muon = parameter.ndim == 2 and name.startswith("backbone.") and ".norm." not in name
    matrices = [parameter for parameter in trained_of(model) if parameter.use_muon]
    others = [parameter for parameter in trained_of(model) if not parameter.use_muon]
    muon = {"lr": training.muon_learning_rate, "momentum": 0.95, "weight_decay": training.weight_decay}
    groups = [
        {"params": matrices, "use_muon": True, **muon},
        {"params": others, "use_muon": False, "eps": 1e-8, **settings},
    ]
    return MuonWithAuxAdam(groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def compile_blocks(model: VideoDiT, zero_stage: int) -> None:
    """ZeRO-3 may not gather weights within what is compiled: a block's come all at once, in a hook before it."""
    if zero_stage == 3:
        set_z3_leaf_modules(model, list({type(block) for block in model.backbone.all_blocks}))
    model.backbone.compile_blocks()


class Engine:
    """A model under DeepSpeed.

    Every rank calls every method. Of weights that need no gradient none of them speaks.

    Attributes:
        rank, num_ranks: this one, and how many.
        data_rank, num_data_ranks: the same of groups that share clips; ranks of one group get the same batches.
        step_taken: whether the last step changed the weights: not where its gradient was not finite on any rank.
        gradient_norm: [], of the last step, over all ranks and before clipping, infinite or NaN where the step was not
            taken; None where DeepSpeed has not come to take it.
        scales_loss: whether the last step's gradient may be infinite as its loss was scaled: so fp16 finds a scale.
    """

    def __init__(self, model: VideoDiT, config: Config) -> None:
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()
        sharing = config.training.sequence_parallel
        self.data_rank, self.num_data_ranks = self.rank // sharing, self.num_ranks // sharing
        if sharing > 1:
            model.sequence_group = _sequence_group(self.rank, self.num_ranks, sharing)
        settings = deepspeed_config(config, self.num_ranks)
        if config.training.compile:
            compile_blocks(model, settings["zero_optimization"]["stage"])
        optimizer = None if "optimizer" in settings else build_optimizer(model, config.training)
        with _refusals_told(config.deepspeed):
            if settings["zero_optimization"]["stage"] == 3:
                deepspeed.zero.Init(module=model, config_dict_or_path=settings)  # else the device once holds all of it
                torch.set_autocast_cache_enabled(False)  # which would hold a copy of all weights that are gathered
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=model,
                model_parameters=trained_of(model),
                optimizer=optimizer,
                config=settings,
            )
        self._peak_learning_rates = [group["lr"] for group in self._optimizer.param_groups]
        self.device = self._engine.device
        self.model = self._engine
        self.micro_batches_per_step = int(self._engine.gradient_accumulation_steps())
        self.gradient_norm: Tensor | None = None
        self.step_taken = True  # as loading lets the optimizer make its state with a step
        self.scales_loss = False
        self._loss_scale = LossScale() if config.training.precision == "fp16" else None
        # PyTorch's, which under ZeRO never falls, and scales what is clipped (DeepSpeed 0.19.8).
        self._engine.torch_autocast_z0_gradscaler = self._optimizer.torch_autocast_gradscaler = None
        if not self._engine.zero_optimization():
            self._withhold_steps()
            self._engine.enable_backward_allreduce = self.num_ranks > 1  # a rank alone would copy its gradients twice
        self._norm_of_step: Callable[[], Any] = self._engine.get_global_grad_norm
        if config.training.optimizer == "muon" and self._engine.zero_optimization():
            self._norm_of_step = MuonGradients(self._optimizer).norm_of_step
        self._trained = [(name, weight) for name, weight in named_weights(model) if weight.requires_grad]
        self._state = _optimizer_state(self._trained, self._optimizer, self.rank)
        self._hosts = dist.new_group(backend="gloo")
        for group in [*dist.distributed_c10d._world.pg_map]:  # DeepSpeed's among them
            dist.distributed_c10d._set_pg_timeout(NO_LIMIT, group)

    def scale_learning_rates(self, factor: float) -> None:
        """Sets each parameter group to this share of its peak learning rate."""
        for group, peak in zip(self._optimizer.param_groups, self._peak_learning_rates, strict=True):
            group["lr"] = peak * factor

    @property
    def learning_rate(self) -> float:
        """Of the last parameter group, which AdamW steps on also where others are Muon's."""
        return float(self._optimizer.param_groups[-1]["lr"])

    def backward(self, loss: Tensor, withhold: bool = False) -> None:
        """Adds the gradients of one micro-batch, and steps the optimizer after the last one of a step.

        Under ZeRO it is DeepSpeed that discards a step whose gradient is not finite.

        Args:
            loss: [], of the micro-batch.
            withhold: of the last one: the step must not be taken.
        """
        if withhold:
            loss = loss * math.nan
        is_last = self._engine.is_gradient_accumulation_boundary()
        if self._engine.zero_optimization():
            self._step_with_zero(loss, is_last)
        else:
            self._step_without_zero(loss, is_last)
        if is_last and self._loss_scale is not None and not withhold:
            self.scales_loss = self._loss_scale.value > 1
            self._loss_scale.update(self.step_taken)

    def _step_with_zero(self, loss: Tensor, is_last: bool) -> None:
        if self._loss_scale is not None:
            self._optimizer.override_loss_scale(self._loss_scale.value)
        self._engine.backward(loss)
        self._engine.step()
        if is_last:
            self.step_taken = self._engine.was_step_applied()
            norm = self._norm_of_step()
            self.gradient_norm = None if norm is None else torch.as_tensor(norm)

    def _step_without_zero(self, loss: Tensor, is_last: bool) -> None:
        scale = 1.0 if self._loss_scale is None else self._loss_scale.value
        self._engine.backward(scale * loss)
        if is_last:
            gradients = [parameter.grad for _, parameter in self._trained if parameter.grad is not None]
            if scale != 1:
                torch._foreach_div_(gradients, scale)
            self.gradient_norm = torch.nn.utils.get_total_norm(gradients)
            self.step_taken = bool(self.gradient_norm.isfinite())
        self._engine.step()

    def _withhold_steps(self) -> None:
        """Keeps the optimizer from those that are not taken: without gradients, Muon and its AdamW step on zeros."""
        step = self._optimizer.step
        self._optimizer.step = lambda *args, **kwargs: step(*args, **kwargs) if self.step_taken else None

    @property
    def is_first_of_clips(self) -> bool:
        """Of the ranks that share clips, one counts for all."""
        return self.rank % (self.num_ranks // self.num_data_ranks) == 0

    def shards(self) -> dict[str, Tensor]:
        """What this rank holds of each parameter: a flat part with ZeRO-3, else the whole."""
        return {name: getattr(parameter, "ds_tensor", parameter.data) for name, parameter in self._trained}

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors from what each rank holds of them, in the layout of `shards()`: in rank 0's CPU memory."""
        whole = {}
        for name, parameter in self._trained:
            tensor = shards[name].to(self.device)  # from where they are offloaded to
            if hasattr(parameter, "ds_tensor"):
                parts = [torch.empty_like(tensor) for _ in range(self.num_ranks)]
                dist.all_gather(parts, tensor.contiguous())
                tensor = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
            if self.rank == 0:
                whole[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return whole

    def scatter(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `gather`."""
        shards = {}
        for name, parameter in self._trained:
            tensor = whole[name].to(getattr(parameter, "ds_tensor", parameter).device)
            if hasattr(parameter, "ds_tensor"):
                size = parameter.ds_tensor.numel()
                padded = torch.cat((tensor.flatten(), tensor.new_zeros(size * self.num_ranks - tensor.numel())))
                tensor = padded[self.rank * size : (self.rank + 1) * size].clone()
            shards[name] = tensor
        return shards

    def copy_of_pieces(self) -> dict[PieceName, Tensor]:
        """This rank's share of the weights and of the optimizer's state, in CPU memory."""
        with self._state.in_fp32():
            return {
                piece.name: piece.values.to("cpu", copy=True)
                for index, piece in enumerate(self._state.pieces())
                if not piece.everywhere or index % self.num_ranks == self.rank
            }

    def counters(self) -> dict[str, Any]:
        """What goes on beside the tensors; JSON."""
        return {"optimizer": self._state.counters(), "loss_scale": self._loss_scale and self._loss_scale.state()}

    def load(self, read: Read, counters: Mapping[str, Any]) -> None:
        """Goes on from pieces and counters, which any number of ranks may have saved at any ZeRO stage."""
        self._state.load(read, counters["optimizer"])
        if self._loss_scale is not None and counters.get("loss_scale") is not None:
            self._loss_scale.load(counters["loss_scale"])

    def any_rank(self, *flags: bool) -> list[bool]:
        """Of each flag, whether any rank has set it. All ranks wait here for each other, but for no GPU."""
        agreed = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self._hosts)
        return [bool(flag) for flag in agreed]

    def mean_over_ranks(self, value: float) -> float:
        """Over the ranks' CPUs, where all wait for each other."""
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self._hosts)
        return float(total) / self.num_ranks

    def of_all_ranks(self, value: Any) -> list[Any]:
        """What each rank has, in their order, on rank 0; elsewhere nothing."""
        values: list[Any] = [None] * self.num_ranks if self.rank == 0 else []
        dist.gather_object(value, values if self.rank == 0 else None, group=self._hosts)
        return values

    @property
    def identity(self) -> dict[str, int]:
        """How many ranks there are, and at which ZeRO stage."""
        return {"num_ranks": self.num_ranks, "zero_stage": int(self._engine.zero_optimization_stage())}

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def __str__(self) -> str:
        shared = f", {self.num_ranks // self.num_data_ranks} to a clip" if self.num_data_ranks < self.num_ranks else ""
        return f"{self.num_ranks} x {self.device.type}{shared}, ZeRO {self.identity['zero_stage']}"


@contextmanager
def _refusals_told(table: Mapping[str, Any]) -> Iterator[None]:
    """
    Raises:
        UserError: DeepSpeed refuses, in one of its ways, while there is something that a user has told it.
    """
    try:
        yield
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        if not table:
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"DeepSpeed does not take the [deepspeed] table, which has {', '.join(table)}: {told}"
        ) from error


def _sequence_group(rank: int, num_ranks: int, size: int) -> SequenceGroup:
    """Of ranks one after another, which are near each other; every rank makes all groups."""
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, num_ranks, size)]
    return SequenceGroup(groups[rank // size], rank % size, size)


def _optimizer_state(parameters: list[tuple[str, nn.Parameter]], optimizer: Any, rank: int) -> OptimizerState:
    if hasattr(parameters[0][1], "ds_tensor"):
        return PartitionedState(parameters, optimizer, rank)
    if any(hasattr(parameter, "_hp_mapping") for _, parameter in parameters):
        return FragmentedState(parameters, optimizer)
    return WholeState(parameters, optimizer)


logging.getLogger("DeepSpeed").setLevel(os.environ["DS_LOG_LEVEL"].upper())
