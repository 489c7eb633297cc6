"""What each rank holds of the weights and of the optimizer's state: flat pieces of parameters, at every ZeRO stage.

DeepSpeed lays them out in three ways: whole on every rank (ZeRO 0), as parts of flat groups of parameters (1 and 2), or
an equal part of each parameter on every rank (3). A piece says where it belongs, so that what one layout has written
any other can read.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from video_dit.training.adamw_8bit import AdamW8bit
from video_dit.training.piece_files import PieceName

WEIGHTS = "weights"

Read = Callable[[str, int, int], Tensor]
"""key, start and number of elements of a piece to its values, flat."""


class Piece(NamedTuple):
    """Part of a parameter's weights, or of what the optimizer keeps for it.

    name: whose key is such as "weights/NAME" or "exp_avg/NAME".
    values: flat; they stay those of the optimizer, and change with them.
    everywhere: every rank holds it.
    write: replaces the values.
    """

    name: PieceName
    values: Tensor
    everywhere: bool
    write: Callable[[Tensor], object]


class OptimizerState(ABC):
    """The weights that are trained and the state of their optimizer on this rank.

    Args:
        parameters: by their names, as DeepSpeed has laid them out.
        optimizer: DeepSpeed's; the one that it wraps, if it does, is its `optimizer`.
    """

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], optimizer: Any) -> None:
        self._parameters = parameters
        self._outer = optimizer
        self._inner: Optimizer = getattr(optimizer, "optimizer", optimizer)

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """All that this rank holds, `in_fp32`; of the state, what the first step has made."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the state that the first step would make."""

    @abstractmethod
    def _update_model(self) -> None:
        """Gives the model the weights that the optimizer holds."""

    def counters(self) -> dict[str, float] | None:
        """What the optimizer counts, the same for all parameters: AdamW's steps. None: it has not taken any."""
        kept = self._inner.state
        groups = [group["params"] for group in self._inner.param_groups if group["params"]]
        if not kept or not all(any(parameter in kept for parameter in group) for group in groups):
            return None  # Muon has momenta before
        return {
            key: float(value)
            for state in kept.values()
            for key, value in state.items()
            if not _is_tensor_of_elements(value)
        }

    @contextmanager
    def in_fp32(self) -> Iterator[None]:
        """Nothing is in 8 bits meanwhile, and no step is taken."""
        quantized = isinstance(self._inner, AdamW8bit)
        if quantized:
            self._inner.expand()
        yield
        if quantized:
            self._inner.compress()

    def load(self, read: Read, counters: Mapping[str, float] | None) -> None:
        """Sets the weights to those of a checkpoint, and the state if it has one. Every rank calls it."""
        if counters is not None:
            self._prepare()
        with self.in_fp32():
            for piece in self.pieces():
                if counters is not None or piece.name.key.startswith(f"{WEIGHTS}/"):
                    piece.write(read(*piece.name, piece.values.numel()))
        if counters is not None:
            self._set_counters(counters)
        self._update_model()

    def _set_counters(self, counters: Mapping[str, float]) -> None:
        for state in self._inner.state.values():
            for key, value in state.items():
                if not _is_tensor_of_elements(value):
                    state[key] = torch.full_like(value, counters[key]) if torch.is_tensor(value) else counters[key]


class WholeState(OptimizerState):
    """ZeRO 0: every rank has everything."""

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self._parameters:
            yield _whole(f"{WEIGHTS}/{name}", parameter)
            for key, value in self._inner.state.get(parameter, {}).items():
                if _is_tensor_of_elements(value):
                    yield _whole(f"{key}/{name}", value)

    def _prepare(self) -> None:
        _step_on_the_spot(self._inner)

    def _update_model(self) -> None:
        """The optimizer works on the model's own weights."""


class FragmentedState(OptimizerState):
    """ZeRO 1 and 2: the parameters of each group are one flat tensor, of which every rank has an equal part."""

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self._parameters:
            if parameter._hp_mapping is not None:
                fragment = parameter._hp_mapping
                start, within = fragment.lp_fragment_address.start, fragment.hp_fragment_address
                flat = self._inner.param_groups[fragment.param_group_index]["params"][0]
                tensors = {WEIGHTS: flat.detach()} | self._state_of_elements(fragment.param_group_index)
                for key, tensor in tensors.items():
                    values = tensor.narrow(0, within.start, within.numel)
                    yield Piece(PieceName(f"{key}/{name}", start), values, False, values.copy_)
        yield from self._whole_momenta()

    def _state_of_elements(self, group: int) -> dict[str, Tensor]:
        if self._has_whole_momenta(group):
            return {}
        state = self._inner.state.get(self._inner.param_groups[group]["params"][0], {})
        return {key: value for key, value in state.items() if _is_tensor_of_elements(value)}

    def _is_muon(self, group: int) -> bool:
        return bool(self._inner.param_groups[group].get("use_muon", False))

    def _has_whole_momenta(self, group: int) -> bool:
        """Muon orthogonalizes whole parameters; offloaded momenta are parts that are gathered for it."""
        return self._is_muon(group) and not self._outer.cpu_offload

    def _whole_momenta(self) -> Iterator[Piece]:
        """Of the parameters of which this rank has a part, in turn."""
        names = {id(parameter): name for name, parameter in self._parameters}
        for group, settings in enumerate(self._inner.param_groups):
            momenta = self._inner.state.get(settings["params"][0], {}).get("momentum_buffer")
            if self._has_whole_momenta(group) and momenta is not None:
                parameters = self._outer.params_in_partition[group]
                for parameter, values in zip(
                    parameters, momenta.split([parameter.numel() for parameter in parameters]), strict=True
                ):
                    key = f"momentum_buffer/{names[id(parameter)]}"
                    yield Piece(PieceName(key, 0), values, False, values.copy_)

    def _prepare(self) -> None:
        _step_on_the_spot(self._inner)
        for group, settings in enumerate(self._inner.param_groups):
            if self._is_muon(group):
                flat, size = settings["params"][0], settings["params"][0].numel()
                if self._has_whole_momenta(group):
                    size = sum(parameter.numel() for parameter in self._outer.params_in_partition[group])
                self._inner.state[flat]["momentum_buffer"] = flat.new_zeros(size)

    def _update_model(self) -> None:
        self._outer.update_lp_params()


class PartitionedState(OptimizerState):
    """ZeRO 3: every rank has an equal part of each parameter, the last with padding.

    Args:
        rank: which of the parts this one has.
    """

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], optimizer: Any, rank: int) -> None:
        super().__init__(parameters, optimizer)
        self._rank = rank

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self._parameters:
            size = parameter.ds_tensor.numel()
            start = self._rank * size
            held = min(size, parameter.ds_numel - start)
            if held <= 0:
                continue
            for key in (None, *self._keys_of_elements()):
                values = self._outer.get_local_fp32_param(parameter, key)[:held]
                piece = PieceName(f"{key or WEIGHTS}/{name}", start)
                yield Piece(piece, values, False, self._writer(parameter, key))

    def _keys_of_elements(self) -> list[str]:
        state: Mapping[str, Any] = next(iter(self._inner.state.values()), {})
        return [key for key, value in state.items() if _is_tensor_of_elements(value)]

    def _writer(self, parameter: nn.Parameter, key: str | None) -> Callable[[Tensor], None]:
        def write(values: Tensor) -> None:
            padded = torch.zeros_like(parameter.ds_tensor, dtype=torch.float32)
            padded[: values.numel()] = values
            self._outer.set_local_hp_param(padded, parameter, key)
            if key is None:
                parameter.ds_tensor.data.copy_(padded)

        return write

    def _prepare(self) -> None:
        self._outer.checkpoint_event_prologue()
        for flat, group in zip(
            self._outer.fp32_partitioned_groups_flat, self._outer.sub_group_to_group_id.values(), strict=True
        ):
            settings = self._inner.param_groups[group]
            settings["params"] = [flat]
            _step_on_the_spot(self._inner)
            settings["params"] = []

    def _update_model(self) -> None:
        self._outer.checkpoint_event_epilogue()


def _is_tensor_of_elements(value: Any) -> bool:
    return torch.is_tensor(value) and value.ndim > 0


def _whole(key: str, tensor: Tensor) -> Piece:
    values = tensor.detach().view(-1)
    return Piece(PieceName(key, 0), values, True, values.copy_)


def _step_on_the_spot(optimizer: Optimizer) -> None:
    """A step of no length, after which all state is there."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters]
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
