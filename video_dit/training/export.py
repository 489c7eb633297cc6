"""A run as one folder to share: weights, config and a model card, which sampling reads as it reads a run."""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from safetensors import safe_open
from torch import Tensor

from video_dit.config import Config, Precision
from video_dit.errors import UserError
from video_dit.models.weights import (
    PEFT_PREFIX,
    adapted_layers,
    check_weights,
    merge_adapters,
    read_parts,
    split_adapters,
    write_weights,
)
from video_dit.precision import DTYPES
from video_dit.run_folder import RunFolder, TrainingData, step_of, versions
from video_dit.training.optimizer_state import WEIGHTS
from video_dit.training.piece_files import PieceReader


class _Source(NamedTuple):
    """
    weights: with the adapters beside them, where a run has some.
    kind: what they are.
    step: that they are of, where that is known.
    """

    weights: dict[str, Tensor]
    kind: str
    step: str | None


def export_run(
    run: RunFolder,
    out: Path,
    weights: Literal["averaged", "raw"] | Path = "averaged",
    step: int | None = None,
    precision: Precision = "fp32",
    lora: Literal["merged", "separate"] = "merged",
) -> None:
    """Writes a model's folder, which is complete before it has its name.

    Args:
        run: a run folder.
        out: a folder that does not exist.
        weights: the exponential average, what the optimizer works on, or a file of them; an exported model has one
            kind, which is taken for averaged.
        step: of the checkpoint; None: the newest. A file has its own.
        precision: of the weights.
        lora: adapters become part of the weights, or stay beside them in files that PEFT reads.

    Raises:
        UserError: `out` exists, there is no such checkpoint, the file does not hold weights of this model, or there are
            no adapters to keep separate.
    """
    if out.exists():
        raise UserError(f"{out} exists: give another --out")
    if isinstance(weights, Path) and step is not None:
        raise UserError(f"--step {step} chooses a checkpoint, and --weights names a file: leave one of them out")
    config, data = run.load_config(), run.load_data()
    if weights == "averaged" and step is None and run.exported_weights.exists():
        weights = run.averaged_weights()
    source = _from_file(run, weights, config) if isinstance(weights, Path) else _from_checkpoint(run, weights, step)
    whole, adapters = split_adapters(source.weights)
    if lora == "merged":
        whole, adapters = merge_adapters(source.weights, config.lora), {}
    elif not adapters:
        raise UserError("--lora separate is for runs with adapters, and there are none: leave it out")

    unfinished = RunFolder(out.with_name(out.name + ".unfinished"))
    if unfinished.path.exists():
        shutil.rmtree(unfinished.path)
    unfinished.path.mkdir(parents=True)
    for file in (run.config_file, run.data_file, run.versions_file, run.example_prompts):
        shutil.copy(file, unfinished.path)
    metadata = {"format": "pt", "weights": source.kind, **({"step": source.step} if source.step else {})}
    write_weights(_rounded(whole, precision), unfinished.exported_weights, metadata)
    if adapters:
        _write_adapters(unfinished, _rounded(adapters, precision), config, metadata)
    num_parameters = sum(tensor.numel() for tensor in whole.values())
    card = _model_card(config, data, source, precision, num_parameters, bool(adapters))
    (unfinished.path / "README.md").write_text(card, encoding="utf-8")
    unfinished.path.rename(out)


def _rounded(weights: dict[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    return {name: tensor.to(DTYPES[precision]) for name, tensor in weights.items()}


def _write_adapters(folder: RunFolder, adapters: dict[str, Tensor], config: Config, metadata: dict[str, str]) -> None:
    from video_dit.models.adapters import write_adapter_config  # here, as PEFT takes long to import

    named = {PEFT_PREFIX + name: tensor for name, tensor in adapters.items()}
    write_weights(named, folder.exported_adapters, metadata)
    write_adapter_config(folder.path, adapted_layers(adapters), config.lora)


def _from_checkpoint(run: RunFolder, kind: Literal["averaged", "raw"], step: int | None) -> _Source:
    checkpoint = run.chosen_checkpoint(step)
    number = str(step_of(checkpoint))
    averaged = read_parts(checkpoint / "ema.safetensors", run.frozen_weights, "--step")
    if kind == "averaged":
        return _Source(averaged, "exponential average", number)
    pieces = PieceReader(checkpoint)
    trained = {key.removeprefix(f"{WEIGHTS}/") for key in pieces.keys if key.startswith(f"{WEIGHTS}/")}
    raw = {name: pieces.read_whole(f"{WEIGHTS}/{name}").view_as(averaged[name]) for name in trained}
    return _Source({**averaged, **raw}, "raw", number)


def _from_file(run: RunFolder, file: Path, config: Config) -> _Source:
    weights = read_parts(file, run.frozen_weights, "--weights")
    averaged = read_parts(run.averaged_weights(), run.frozen_weights, "--weights")
    check_weights(merge_adapters(weights, config.lora), merge_adapters(averaged, config.lora), str(file))
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
    return _Source(weights, metadata.get("weights", f"those of {file.name}"), metadata.get("step"))


def _model_card(
    config: Config, data: TrainingData, source: _Source, precision: str, num_parameters: int, has_adapters: bool
) -> str:
    """Markdown, with the metadata that model hubs read."""
    clip, model = data.usual_clip(config.data), config.model
    steps = f"after {source.step} steps of {config.training.batch_size} clips" if source.step else "of unknown age"
    encoders = "\n".join(
        f"| {name} | {table.name}, fingerprint {data.fingerprints.get(name) or 'unknown'} |"
        for name, table in (("autoencoder", config.autoencoder), ("text_encoder", config.text_encoder))
    )
    adapters = f"\n| adapters | LoRA of rank {config.lora.rank}, in PEFT's files, not merged |" if has_adapters else ""
    software = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""---
pipeline_tag: text-to-video
library_name: video-dit
---

# A video diffusion transformer

| | |
|---|---|
| model | {model.name}, {num_parameters / 1e6:.1f} M parameters, width {model.hidden_size}, depth {model.depth} |
| weights | {source.kind}, {steps}; {precision} |{adapters}
| clips | {clip.num_frames} frames of {clip.width} x {clip.height} pixels, {clip.fps:g} frames per second |
| objective | {config.diffusion.process}, predicts {config.diffusion.prediction} |
{encoders}
| exported with | {software} |

`config.toml` has every setting, and `example_prompts.txt` captions of the training data. What the data and the encoders
allow is for whoever trained the model to say; this card says nothing about it.

    python scripts/generate.py --run THIS_FOLDER --out CLIPS "a prompt"

To train on: `training.initial_weights=THIS_FOLDER`, for a new run.
"""
