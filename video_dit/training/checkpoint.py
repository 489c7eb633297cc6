"""Beginning, saving, resuming: a checkpoint is complete before it is named, and named before the last one goes."""

import json
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from video_dit.config import Config
from video_dit.errors import RankError, UserError
from video_dit.files import sync, write_atomically
from video_dit.models.trained import choose_trained, frozen_weights
from video_dit.models.weights import check_weights, merge_adapters, os_errors, read_parts, read_weights, write_weights
from video_dit.run_folder import RunFolder
from video_dit.training.averages import AveragedWeights
from video_dit.training.engine import Engine
from video_dit.training.piece_files import PieceName, PieceReader, write_pieces


class Checkpoints:
    """The checkpoints of a run, written while training goes on. Every rank calls every method.

    Args:
        run: where they are.
        engine: whose state is saved.
        averages: saved with it.
        keep: how many of the latest stay.

    Attributes:
        published: the step of the newest complete one; 0 before the first.
        has_duties: whether a run that goes on from it first has to do what was due after that step, as it was stopped.
    """

    def __init__(self, run: RunFolder, engine: Engine, averages: AveragedWeights, keep: int) -> None:
        self._run = run
        self._engine = engine
        self._averages = averages
        self._keep = keep
        self._writing: _Write | None = None
        self.published = 0
        self.has_duties = False

    def resume(self) -> int:
        """Loads the newest checkpoint, if there is one, of any number of ranks and ZeRO stage.

        Returns:
            the number of steps that are done.

        Raises:
            RankError: it cannot be read.
        """
        checkpoint = self._run.latest_checkpoint()
        if self._engine.rank == 0:
            self._run.forget_unfinished_checkpoints()
        if checkpoint is None:
            return 0
        try:
            state = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
            self._engine.load(PieceReader(checkpoint).read, state["engine"])
            for name in self._averages.by_name:
                file = checkpoint / f"{name}.safetensors"
                with os_errors(file):
                    self._averages.by_name[name] = self._engine.scatter(load_file(file))
        except (OSError, UserError, json.JSONDecodeError, UnicodeDecodeError) as error:
            others = ", ".join(path.name for path in self._run.complete_checkpoints() if path != checkpoint)
            raise RankError(
                f"{checkpoint} cannot be read: {error}. To go on from an earlier one, write its name into "
                f"{checkpoint.parent / 'latest'}: {others or 'there is none'}"
            ) from error
        self.published, self.has_duties = int(state["step"]), bool(state.get("has_duties", False))
        return self.published

    def save(self, step: int, has_duties: bool = False) -> None:
        """Begins to write the state after `step` steps, which may go on changing then."""
        self.finish()
        unfinished = _unfinished(self._run.checkpoint(step))
        if self._engine.rank == 0:
            unfinished.mkdir()
        self._engine.any_rank(False)  # nobody writes before the folder is there
        pieces = self._engine.copy_of_pieces()
        averages = {name: self._engine.gather(shards) for name, shards in self._averages.by_name.items()}
        state = {
            "step": step, "has_duties": has_duties, **self._engine.identity, "engine": self._engine.counters()
        }  # fmt: skip
        self._writing = _Write(unfinished, step, self._engine.rank, pieces, averages, state)
        self._writing.start()

    @property
    def writing(self) -> bool:
        """Whether this rank has not written all of its part."""
        return self._writing is not None and self._writing.is_alive()

    @property
    def failed(self) -> bool:
        """Whether this rank could not write its part."""
        return self._writing is not None and not self.writing and self._writing.error is not None

    def attend(self, any_writing: bool, any_failed: bool) -> None:
        """Completes what all ranks have written; the arguments are what they agreed upon.

        Raises:
            RankError: this rank could not write.
            UserError: another could not.
        """
        if self._writing is None:
            return
        if any_failed:
            if not self.failed:
                raise UserError("another rank could not write its part of a checkpoint")
            raise RankError(
                f"{self._writing.folder} could not be written: {self._writing.error}; when there is room, the same "
                f"command goes on after step {self.published}"
            )
        if not any_writing:
            self.published = self._writing.step
            if self._engine.rank == 0:
                final = self._run.checkpoint(self.published)
                _put_in_place(self._writing.folder, final)
                self._run.publish_checkpoint(final, self._keep)
            self._writing = None

    def finish(self) -> None:
        """Waits for what is being written, and completes it.

        Raises:
            UserError: a rank could not write.
        """
        if self._writing is not None:
            self._writing.join()
        (any_failed,) = self._engine.any_rank(self.failed)
        self.attend(False, any_failed)


class _Write(Thread):
    """The part of one rank; the first writes the averages too.

    Attributes:
        error: why it could not be written, once the thread has ended.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        rank: int,
        pieces: dict[PieceName, Tensor],
        averages: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
    ) -> None:
        super().__init__(name=f"checkpoint of step {step}")
        self.folder = folder
        self.step = step
        self.error: str | None = "the thread that writes has died"
        self._rank = rank
        self._pieces = pieces
        self._averages = averages
        self._state = state

    def run(self) -> None:
        try:
            write_pieces(self.folder, self._rank, self._pieces)
            if self._rank == 0:
                for name, weights in self._averages.items():
                    _write_weights(self.folder, name, weights, self.step)
                write_atomically(self.folder / "checkpoint.json", json.dumps(self._state, indent=2) + "\n")
            self.error = None
        except OSError as error:
            self.error = str(error)


def save_snapshot(run: RunFolder, engine: Engine, averages: AveragedWeights, step: int) -> None:
    """Writes the power-function averages after `step` steps, to stay; every rank calls it.

    In fp32: averages of different width differ by less than bf16 would round them.
    """
    final = run.snapshot(step)
    unfinished = _unfinished(final)
    if engine.rank == 0:
        unfinished.mkdir(parents=True, exist_ok=True)
    for name in averages.power_names:
        weights = engine.gather(averages.by_name[name])
        if engine.rank == 0:
            _write_weights(unfinished, name, weights, step)
    if engine.rank == 0:
        _put_in_place(unfinished, final)
    engine.any_rank(False)  # nobody goes on before it is there


def _unfinished(final: Path) -> Path:
    return final.with_name(final.name + ".unfinished")


def _write_weights(folder: Path, name: str, weights: dict[str, Tensor], step: int) -> None:
    write_weights(weights, folder / f"{name}.safetensors", {"step": str(step), "weights": name})


def _put_in_place(unfinished: Path, final: Path) -> None:
    sync(unfinished)
    if final.exists():
        shutil.rmtree(final)
    unfinished.rename(final)
    sync(final.parent)


def prepare_weights(model: nn.Module, config: Config, run: RunFolder) -> None:
    """Gives a fresh model the weights that no checkpoint has, and chooses those that are trained.

    Args:
        model: on every rank the same.
        config: a run that begins takes its `training.initial_weights`.
        run: one that goes on has kept the weights that it does not train.

    Raises:
        UserError: these are no weights, or of another model, or not to be trained as the config says.
    """
    begins = run.latest_checkpoint() is None
    if begins and config.training.initial_weights is not None:
        _load_initial_weights(model, config.training.initial_weights)
    choose_trained(model, config)
    frozen = frozen_weights(model)
    if frozen and not begins:
        if not run.frozen_weights.exists():
            raise UserError(f"{run.frozen_weights} is gone, with the weights that are not trained: copy it to there")
        kept = read_weights(run.frozen_weights, "--run")
        check_weights(kept, frozen, str(run.frozen_weights))
        for name, weight in frozen.items():
            weight.copy_(kept[name])


def _load_initial_weights(model: nn.Module, source: Path) -> None:
    named_by = "training.initial_weights"
    if source.is_dir():
        run = RunFolder(source)
        parts = read_parts(run.averaged_weights(), run.frozen_weights, named_by)
        weights = merge_adapters(parts, run.load_config().lora)
    else:
        weights = read_weights(source, named_by)
    check_weights(weights, model.state_dict(), f"{source} ({named_by})")
    model.load_state_dict(weights)


def save_frozen_weights(model: nn.Module, run: RunFolder) -> None:
    """Writes the weights that are not trained, once for the whole run; nothing is written before it."""
    run.frozen_weights.unlink(missing_ok=True)  # of a run that was begun and saved nothing
    if frozen := frozen_weights(model):
        write_weights(frozen, run.frozen_weights)
