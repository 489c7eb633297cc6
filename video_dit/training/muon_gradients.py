"""The norm of what Muon makes its updates of, under ZeRO 1 and 2."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class MuonGradients:
    """Looks at the gradients where DeepSpeed (0.19.8) is about to put Muon's updates in their place.

    DeepSpeed takes its norm afterwards: that of the updates, which says nothing about the gradients.

    Args:
        optimizer: DeepSpeed's of ZeRO 1 or 2, around Muon.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._squares: list[Tensor] = []  # of each parameter group, what this rank has of it
        if optimizer.cpu_offload:
            self._replace = optimizer._apply_muon_updates_cpu_offload
            optimizer._apply_muon_updates_cpu_offload = self._look_at_offloaded
        else:
            self._replace = optimizer.get_flat_partition
            optimizer.get_flat_partition = self._look_at_group

    def norm_of_step(self) -> Tensor | None:
        """[], over all ranks, of the step that was just taken or withheld; None if DeepSpeed did not come to that.

        Every rank calls it.
        """
        squares, self._squares = self._squares, []
        if len(squares) < len(self._optimizer.bit16_groups):
            return None
        return self._norm(squares)

    def _norm(self, squares: list[Tensor]) -> Tensor:
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        return total.sqrt()

    def _look_at_offloaded(self) -> None:
        """DeepSpeed would change the momenta of weights whose gradients are finite where others' are not."""
        for partition in self._optimizer.single_partition_of_fp32_groups:
            self._keep([partition.grad])
        if self._norm(self._squares).isfinite():
            self._replace()

    def _look_at_group(self, parameters: list[Tensor], *args: Any, param_group_idx: int, **rest: Any) -> Any:
        optimizer, group = self._optimizer, param_group_idx
        rank = dist.get_rank(group=optimizer.real_dp_process_group[group])
        slices = []
        for parameter, gradient in zip(parameters, optimizer.all_grad_tensors[group], strict=True):
            key = optimizer.get_param_id(parameter)
            begin = optimizer.grad_start_offset[group][rank][key]
            room = optimizer.partition_size[group] - optimizer.grad_partition_insertion_offset[group][rank][key]
            slices.append(gradient.reshape(-1)[begin : begin + room])  # what is left of it is another rank's
        self._keep(slices)
        if optimizer.loss_scale != 1 and parameters and optimizer._is_muon_group(parameters):  # momenta are of no scale
            torch._foreach_div_(optimizer.all_grad_tensors[group], float(optimizer.loss_scale))
        return self._replace(parameters, *args, param_group_idx=param_group_idx, **rest)

    def _keep(self, gradients: list[Tensor]) -> None:
        norm = torch.nn.utils.get_total_norm(gradients) / float(self._optimizer.loss_scale)
        self._squares.append(norm.square().to(self._optimizer.bit16_groups_flat[0].device))
