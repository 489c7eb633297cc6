"""DeepSpeed, and nothing else of the project knows it: starting ranks, ZeRO, checkpoints, weights that are sharded."""

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from video_dit.config import Config, TrainingConfig
from video_dit.errors import UserError

# DeepSpeed reads these while it is imported; a user who sets them wins.
os.environ.setdefault("DS_LOG_LEVEL", "warning")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(deepspeed|torch)\..*")

import deepspeed  # noqa: E402
import deepspeed.ops  # noqa: E402
import deepspeed.runtime.compiler  # noqa: E402
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # noqa: E402


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
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_ranks))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(minutes=30), verbose=False)
    yield dist.get_rank()
    dist.destroy_process_group()  # not after an error: a rank that fails must end, not wait for the others


def wait_for_all() -> None:
    """Until every rank is here."""
    dist.barrier()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_tables else value
    return merged


def micro_batch_size(config: Config, num_ranks: int) -> int:
    """Samples per rank and forward pass.

    Raises:
        UserError: the ranks and micro-batches do not divide the batch.
    """
    batch_size = config.training.batch_size
    micro = config.training.micro_batch_size or batch_size // num_ranks
    if micro == 0 or batch_size % (micro * num_ranks):
        raise UserError(
            f"training.batch_size is {batch_size}, which is not a multiple of {num_ranks} ranks x micro-batches of "
            f"{max(1, micro)}: change training.batch_size, training.micro_batch_size or the number of ranks"
        )
    return micro


def deepspeed_config(config: Config, num_ranks: int) -> dict[str, Any]:
    """What DeepSpeed is told: derived from the run's config, with the [deepspeed] table merged over it.

    Raises:
        UserError: the table says something that the run must know.
    """
    training = config.training
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if key in config.deepspeed:
            raise UserError(f"deepspeed.{key}: set training.batch_size and training.micro_batch_size instead")
    derived = {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size(config, num_ranks),
        "gradient_clipping": training.gradient_clipping,
        "zero_optimization": {"stage": training.zero_stage},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": training.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
    }
    return merge(derived, config.deepspeed)


def check_optimizer(training: TrainingConfig) -> None:
    """
    Raises:
        UserError: DeepSpeed's Muon runs neither under ZeRO-3 nor with clipping.
    """
    if training.optimizer == "muon" and training.zero_stage == 3:
        raise UserError("training.optimizer is 'muon', which needs training.zero_stage 0, 1 or 2, not 3")
    if training.optimizer == "muon" and training.gradient_clipping > 0:
        # Under ZeRO 1 and 2 DeepSpeed clips Muon's updates, whose norm is large by design, and not the gradients.
        raise UserError(
            f"training.gradient_clipping is {training.gradient_clipping:g}, "
            "and must be 0 where training.optimizer is 'muon'"
        )


def build_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW for all weights, or Muon for the matrices of the attention and feed-forward layers and AdamW for the rest.

    The layers that start at zero are no matter for Muon, whose updates have the same size from the first step on.

    Raises:
        UserError: DeepSpeed's Muon runs neither under ZeRO-3 nor with clipping.
    """
    check_optimizer(training)
    settings = {"lr": training.learning_rate, "betas": training.betas, "weight_decay": training.weight_decay}
    if training.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings, fused=True)

    # Its kernels would be compiled at the first step, which needs a compiler and takes longer than it saves.
    deepspeed.runtime.compiler.compile = lambda: lambda function: function
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for name, parameter in model.named_parameters():
        parameter.use_muon = parameter.ndim == 2 and name.startswith("backbone.") and ".norm." not in name
    matrices = [parameter for parameter in model.parameters() if parameter.use_muon]
    others = [parameter for parameter in model.parameters() if not parameter.use_muon]
    muon = {"lr": training.muon_learning_rate, "momentum": 0.95, "weight_decay": training.weight_decay}
    groups = [
        {"params": matrices, "use_muon": True, **muon},
        {"params": others, "use_muon": False, "eps": 1e-8, **settings},
    ]
    return MuonWithAuxAdam(groups, adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


class Engine:
    """A model under DeepSpeed.

    Every rank calls every method.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()
        settings = deepspeed_config(config, self.num_ranks)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            model_parameters=list(model.parameters()),
            optimizer=None if "optimizer" in settings else build_optimizer(model, config.training),
            config=settings,
        )
        self._peak_learning_rates = [group["lr"] for group in self._optimizer.param_groups]
        self.device = self._engine.device
        self.model = self._engine
        self.micro_batches_per_step = int(self._engine.gradient_accumulation_steps())
        self._identity = {"num_ranks": self.num_ranks, "zero_stage": int(self._engine.zero_optimization_stage())}

    def scale_learning_rates(self, factor: float) -> None:
        """Sets each parameter group to this share of its peak learning rate."""
        for group, peak in zip(self._optimizer.param_groups, self._peak_learning_rates, strict=True):
            group["lr"] = peak * factor

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of one micro-batch, and steps the optimizer after the last one of a step."""
        self._engine.backward(loss)
        self._engine.step()

    def shards(self) -> dict[str, Tensor]:
        """What this rank holds of each parameter: a flat part with ZeRO-3, else the whole."""
        return {name: getattr(parameter, "ds_tensor", parameter.data) for name, parameter in self._parameters()}

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in CPU memory from what each rank holds of them, in the layout of `shards()`."""
        whole = {}
        for name, parameter in self._parameters():
            tensor = shards[name]
            if hasattr(parameter, "ds_tensor"):
                parts = [torch.empty_like(tensor) for _ in range(self.num_ranks)]
                dist.all_gather(parts, tensor.contiguous())
                tensor = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
            whole[name] = tensor.detach().cpu().contiguous()
        return whole

    def scatter(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `gather`."""
        shards = {}
        for name, parameter in self._parameters():
            tensor = whole[name].to(self.device)
            if hasattr(parameter, "ds_tensor"):
                size = parameter.ds_tensor.numel()
                padded = torch.cat((tensor.flatten(), tensor.new_zeros(size * self.num_ranks - tensor.numel())))
                tensor = padded[self.rank * size : (self.rank + 1) * size].clone()
            shards[name] = tensor
        return shards

    def save(self, folder: Path, tag: str) -> None:
        """Writes DeepSpeed's state of all ranks to folder/tag."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        self._engine.load_checkpoint(str(folder), tag=tag)

    @property
    def identity(self) -> dict[str, int]:
        """What a checkpoint must have in common with the run that resumes it."""
        return self._identity

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values

    def __str__(self) -> str:
        return f"{self.num_ranks} x {self.device.type}, ZeRO {self._identity['zero_stage']}"

    def wait_for_ranks(self) -> None:
        dist.barrier()

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._engine.module.named_parameters())


def checkpoint_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The fp32 weights that the optimizer went on with, of a checkpoint of any ZeRO stage and number of ranks.

    No ranks are needed. DeepSpeed's files are unpickled, which runs what they say: for runs of one's own.
    """
    zero_stage = json.loads((checkpoint / "checkpoint.json").read_text())["zero_stage"]
    if zero_stage == 0:
        file = checkpoint / "mp_rank_00_model_states.pt"
        weights = torch.load(file, map_location="cpu", weights_only=False)["module"]
    else:
        with redirect_stdout(io.StringIO()):  # it tells what it reads
            weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}


logging.getLogger("DeepSpeed").setLevel(os.environ["DS_LOG_LEVEL"].upper())
