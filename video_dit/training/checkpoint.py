"""Saving and resuming: a checkpoint is complete before it has its name, and named before the one before it goes."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from video_dit.errors import UserError
from video_dit.models.weights import check_weights, read_weights
from video_dit.run_folder import RunFolder
from video_dit.training.averages import AveragedWeights
from video_dit.training.engine import Engine


def save_checkpoint(run: RunFolder, engine: Engine, averages: AveragedWeights, step: int, keep: int) -> None:
    """Writes the state after `step` steps; every rank calls it."""
    final = run.checkpoint(step)
    unfinished = final.with_name(final.name + ".unfinished")
    engine.save(run.checkpoints, unfinished.name)
    _save_averages(engine, averages, averages.by_name, unfinished, step)
    if engine.rank == 0:
        (unfinished / "checkpoint.json").write_text(json.dumps({"step": step, **engine.identity}) + "\n")
        _put_in_place(unfinished, final)
        run.publish_checkpoint(final, keep)
    engine.wait_for_ranks()


def save_snapshot(run: RunFolder, engine: Engine, averages: AveragedWeights, step: int) -> None:
    """Writes the power-function averages after `step` steps, to stay; every rank calls it.

    In fp32: averages of different width differ by less than bf16 would round them.
    """
    final = run.snapshot(step)
    unfinished = final.with_name(final.name + ".unfinished")
    if engine.rank == 0:
        unfinished.mkdir(parents=True, exist_ok=True)
    _save_averages(engine, averages, averages.power_names, unfinished, step)
    if engine.rank == 0:
        _put_in_place(unfinished, final)
    engine.wait_for_ranks()


def _save_averages(engine: Engine, averages: AveragedWeights, names: Iterable[str], folder: Path, step: int) -> None:
    for name in names:
        weights = engine.gather(averages.by_name[name])
        if engine.rank == 0:
            save_file(weights, folder / f"{name}.safetensors", metadata={"step": str(step), "weights": name})


def _put_in_place(unfinished: Path, final: Path) -> None:
    if final.exists():
        shutil.rmtree(final)
    unfinished.rename(final)


def load_initial_weights(model: nn.Module, file: Path) -> None:
    """Sets a fresh model's weights to those of a safetensors file.

    Raises:
        UserError: the file is no safetensors file, or holds the weights of another model.
    """
    named_by = "training.initial_weights"
    weights = read_weights(file, named_by)
    check_weights(weights, model.state_dict(), f"{file} ({named_by})")
    model.load_state_dict(weights)


def resume(run: RunFolder, engine: Engine, averages: AveragedWeights) -> int:
    """Loads the newest checkpoint, if there is one; every rank calls it.

    Returns:
        the number of steps that are done.

    Raises:
        UserError: the checkpoint was written by another number of ranks or ZeRO stage.
    """
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        return 0
    state = json.loads((checkpoint / "checkpoint.json").read_text())
    for key, value in engine.identity.items():
        if state[key] != value:
            raise UserError(
                f"{checkpoint} was written with {key} = {state[key]}, and this start has {value}: "
                f"resume with {key} = {state[key]}"
            )
    engine.load(run.checkpoints, checkpoint.name)
    for name in averages.by_name:
        averages.by_name[name] = engine.scatter(load_file(checkpoint / f"{name}.safetensors"))
    return int(state["step"])
