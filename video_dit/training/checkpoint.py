"""Saving and resuming: a checkpoint is complete before it has its name, and named before the one before it goes."""

import json
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from video_dit.errors import RankError, UserError
from video_dit.files import sync, write_atomically
from video_dit.models.weights import check_weights, read_weights
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
    """

    def __init__(self, run: RunFolder, engine: Engine, averages: AveragedWeights, keep: int) -> None:
        self._run = run
        self._engine = engine
        self._averages = averages
        self._keep = keep
        self._writing: _Write | None = None
        self.published = 0

    def resume(self) -> int:
        """Loads the newest checkpoint, if there is one, of any number of ranks and ZeRO stage.

        Returns:
            the number of steps that are done.

        Raises:
            UserError: it cannot be read.
        """
        checkpoint = self._run.latest_checkpoint()
        if self._engine.rank == 0:
            self._run.forget_unfinished_checkpoints()
        if checkpoint is None:
            return 0
        state = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
        self._engine.load(PieceReader(checkpoint).read, state["engine"])
        for name in self._averages.by_name:
            self._averages.by_name[name] = self._engine.scatter(load_file(checkpoint / f"{name}.safetensors"))
        self.published = int(state["step"])
        return self.published

    def save(self, step: int) -> None:
        """Begins to write the state after `step` steps, which may go on changing then."""
        self.finish()
        unfinished = _unfinished(self._run.checkpoint(step))
        if self._engine.rank == 0:
            unfinished.mkdir()
        self._engine.any_rank(False)  # nobody writes before the folder is there
        pieces = self._engine.copy_of_pieces()
        averages = {name: self._engine.gather(shards) for name, shards in self._averages.by_name.items()}
        state = {"step": step, **self._engine.identity, "engine": self._engine.counters()}
        self._writing = _Write(unfinished, step, self._engine.rank, pieces, averages, state)
        self._writing.start()

    @property
    def writing(self) -> bool:
        """Whether this rank has not written all of its part."""
        return self._writing is not None and self._writing.is_alive()

    @property
    def failed(self) -> bool:
        """Whether this rank could not write its part."""
        return self._writing is not None and self._writing.error is not None

    def attend(self, any_writing: bool, any_failed: bool) -> None:
        """Completes what all ranks have written; the arguments are what they agreed upon.

        Raises:
            RankError: this rank could not write.
            UserError: another could not.
        """
        if self._writing is None:
            return
        if any_failed:
            if self._writing.error is None:
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
        error: why it could not be written.
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
        self.error: str | None = None
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
        except (OSError, SafetensorError) as error:
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
    file = folder / f"{name}.safetensors"
    save_file(weights, file, metadata={"step": str(step), "weights": name})
    sync(file)


def _put_in_place(unfinished: Path, final: Path) -> None:
    sync(unfinished)
    if final.exists():
        shutil.rmtree(final)
    unfinished.rename(final)
    sync(final.parent)


def load_initial_weights(model: nn.Module, file: Path) -> None:
    """Sets a fresh model's weights to those of a safetensors file.

    Raises:
        UserError: the file is no safetensors file, or holds the weights of another model.
    """
    named_by = "training.initial_weights"
    weights = read_weights(file, named_by)
    check_weights(weights, model.state_dict(), f"{file} ({named_by})")
    model.load_state_dict(weights)
