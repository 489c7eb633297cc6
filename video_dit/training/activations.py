"""The memory of a forward and backward pass, without doing either: shapes alone go through the model.

The operations of a real step run on fake tensors (torch's FakeTensorMode), which have shapes and no data, and every
storage that they make is counted while it lives. So recomputation, chunks, autocast and attention patterns are counted
as they are, not as a formula thinks they are.
"""

import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from video_dit.config import Config
from video_dit.contracts import ClipInfo, EncodedShape, TextCondition
from video_dit.diffusion.objective import diffusion_loss
from video_dit.diffusion.processes import build_process
from video_dit.models import VideoDiT, build_model
from video_dit.models.trained import choose_trained, trained_of
from video_dit.parallel import ShapesOnly
from video_dit.precision import autocast
from video_dit.shapes import Grid


def trace_step(
    config: Config,
    encoded: EncodedShape,
    latents: Grid,
    micro_batch: int,
    gradient_share: float,
    keep_weights: bool,
) -> int:
    """Bytes at the peak of a micro-batch's forward and backward pass, beyond weights that were there before.

    Args:
        config: of the run.
        encoded: what the encoders make.
        latents: the grid of the clips.
        micro_batch: B.
        gradient_share: of each gradient, how much stays once it is complete: 1 for all of it, 0 where it goes to a
            place that is there already.
        keep_weights: see `autocast`.
    """
    tables = {"data", "buckets", "autoencoder", "model", "diffusion", "lora"}  # the first three as patches divide clips
    values = config.model_dump(include=tables, exclude_unset=True)
    of_training = {"precision", "sequence_parallel", "initial_weights", "train_only", "freeze"}
    kept = {**values, "training": config.training.model_dump(include=of_training)}
    return _trace(_Frozen(Config.model_validate(kept)), encoded, latents, micro_batch, gradient_share, keep_weights)


def meta_model(config: Config, encoded: EncodedShape) -> VideoDiT:
    """The model of a run with what is trained chosen, on the meta device: it takes no memory, and computes nothing.

    Raises:
        UserError: as `build_model` and `choose_trained`.
    """
    with torch.device("meta"):
        model = build_model(config, encoded)
        choose_trained(model, config)
    return model


def shapes_of_model(config: Config, encoded: EncodedShape) -> VideoDiT:
    """The model of a run with what is trained chosen, on fake tensors; to be called where these are made.

    It is built on the meta device, since PEFT moves what it makes, which fake parameters do not allow.
    """
    model = meta_model(config, encoded)
    for module in model.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            fake = torch.empty(weight.shape, dtype=weight.dtype)
            module.register_parameter(name, nn.Parameter(fake, requires_grad=weight.requires_grad))
    return model


class _Frozen:
    """A config as a key of a cache: what the trace reads of it, by its content."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._content = config.model_dump_json()

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._content == other._content


@lru_cache(maxsize=64)
def _trace(
    frozen: _Frozen,
    encoded: EncodedShape,
    latents: Grid,
    micro_batch: int,
    gradient_share: float,
    keep_weights: bool,
) -> int:
    config = frozen.config
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = shapes_of_model(config, encoded)
        if config.training.sequence_parallel > 1:
            model.sequence_group = ShapesOnly(None, 0, config.training.sequence_parallel)  # whose part is the largest
        with _LiveStorages(model) as storages:
            _keep_gradients(model, gradient_share)
            clean, noise = (torch.empty(micro_batch, encoded.channels, *latents) for _ in range(2))
            given = torch.empty(micro_batch, latents.frames, dtype=torch.bool) if config.model.given_frames else None
            text = TextCondition(
                torch.empty(micro_batch, encoded.text_length, encoded.text_width),
                torch.empty(micro_batch, encoded.text_length, dtype=torch.bool),
                torch.empty(micro_batch, encoded.pooled_width),
            )
            clip = ClipInfo(torch.empty(micro_batch), torch.empty(micro_batch, 2), torch.empty(micro_batch, 2))
            frames = latents.frames // config.model.patch_size[0] if config.diffusion.per_frame_noise else 1
            t = torch.empty(micro_batch, frames)
            t_of_frames = torch.empty(micro_batch, latents.frames)
            process = build_process(config.diffusion)
            noised = process.add_noise(clean, noise, t_of_frames)
            with autocast(torch.device("cpu"), config.training.precision, keep_weights):
                output = model(noised, t, text, clip, given)
            loss = diffusion_loss(process, output, clean, noise, t_of_frames, config.diffusion).mean()
            loss.backward()
    return storages.peak


def _keep_gradients(model: nn.Module, share: float) -> None:
    """Puts a share of each gradient, once it is complete, in its place."""
    if share == 1:
        return
    kept = []

    def replace(parameter: Tensor) -> None:
        kept.append(torch.empty(int(parameter.numel() * share)))
        parameter.grad = None

    for parameter in trained_of(model):
        parameter.register_post_accumulate_grad_hook(replace)


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, while they live.

    Attributes:
        live, peak: bytes.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._references: dict[int, Any] = {x.untyped_storage()._cdata: None for x in model.parameters()}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return True  # "no token is padding": the one question that a model asks its input's values
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._references:
            return

        def gone(_: Any) -> None:
            self.live -= size
            del self._references[key]

        self._references[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)
