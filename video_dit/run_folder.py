"""The layout of a run folder, which is all there is to a run.

- config.toml: the resolved config
- data.json: which videos and encoders its shards were made with, how large their latents are, and the shapes of clips
- versions.json: what it ran with
- metrics.jsonl: one line per step
- validation.jsonl: one line per validation
- tensorboard/: the same, to look at
- frozen.safetensors: the weights that are not trained, where there are some; the files of a checkpoint lack them
- checkpoints/latest: the name of the newest complete checkpoint
- checkpoints/step-000500/: pieces of the weights and of the optimizer's state, one file for each rank that wrote them:
  rank-00000.safetensors; checkpoint.json; and the averaged weights: ema.safetensors, and power-0.1.safetensors for
  each of training.ema_widths
- samples/step-000500/: clips from the averaged weights, their contact sheet, and samples.json: prompts and measures
- alarms/step-000057.json: a step that was not taken, since its loss or gradient was not as it should be
- snapshots/step-000500/: power-0.1.safetensors for each of these, which scripts/average.py combines
- lock: held by the process that trains here
- example_prompts.txt: captions of the data, to try the run with
- evaluation.json: written by scripts/evaluate.py, of the weights and the seed that it names

An exported model (scripts/export.py) is such a folder with model.safetensors and README.md in place of checkpoints and
curves. It is read as a run, and no training goes on in it.
With adapters beside the weights it has adapter_model.safetensors and adapter_config.json, as PEFT names them, too.
"""

import json
import os
import platform
import shutil
import socket
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from video_dit.config import WHERE_AND_HOW, Config, ConfigError, DataConfig, dump, load_config
from video_dit.files import try_lock, write_atomically
from video_dit.shapes import Grid

_VERSIONED = ("video-dit", "torch", "deepspeed", "numpy", "einops", "av", "diffusers", "transformers")
_MAY_CHANGE = ("training", "sampling", "deepspeed")
_MUST_STAY = (
    "training.optimizer",
    "training.batch_size",
    "training.batch_by_tokens",
    "training.image_weight",
    "training.betas",
    "training.weight_decay",
    "training.ema_widths",
    "training.train_only",
    "training.freeze",
)


class TrainingData(NamedTuple):
    """What a run must know of its data when it goes on, and when clips are generated.

    inputs: names what the data was made from.
    fingerprints: of the encoders that it was made with, by the names of their tables; None where nobody could tell.
    grid: latents of a clip; one that all clips fit into.
    shapes: of clips in pixels, with how many have each; none in runs of before they were kept.
    """

    inputs: str
    fingerprints: dict[str, str | None]
    grid: Grid
    shapes: tuple[tuple[Grid, int], ...] = ()

    def usual_clip(self, table: DataConfig) -> DataConfig:
        """[data] with the shape of a clip for which nobody asks another.

        That is the table's, unless [buckets] left no clip with it: then the one that most frames have, so that with
        images and videos it is one of the videos.

        Args:
            table: [data] of the run's config.
        """
        if not self.shapes or table.grid in dict(self.shapes):
            return table
        usual, _ = max(self.shapes, key=lambda shape: shape[0].frames * shape[1])
        return table.model_copy(update={"num_frames": usual.frames, "height": usual.height, "width": usual.width})


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and the few files that more than one room reads."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        return self.path / "validation.jsonl"

    def last_validation(self) -> dict[str, Any] | None:
        """The newest line of `validation`; None: the run has measured no loss on held-out clips."""
        rows = read_rows(self.validation)
        return rows[-1] if rows else None

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exported_weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def exported_adapters(self) -> Path:
        return self.path / "adapter_model.safetensors"

    @property
    def frozen_weights(self) -> Path:
        """Those that checkpoints lack; of an exported model, those that its adapters lack."""
        return self.exported_weights if self.exported_weights.exists() else self.path / "frozen.safetensors"

    @property
    def example_prompts(self) -> Path:
        return self.path / "example_prompts.txt"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def data_file(self) -> Path:
        return self.path / "data.json"

    @property
    def versions_file(self) -> Path:
        return self.path / "versions.json"

    def take(self) -> None:
        """From now on, and until it ends, this process alone trains here.

        Raises:
            ConfigError: another process does, or this is an exported model.
        """
        if self.exported_weights.exists():
            raise ConfigError(
                f"{self.path} is an exported model: give another folder, and start from the model with "
                f"training.initial_weights={self.path}"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "lock"
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not try_lock(lock):
            holder = os.read(lock, 1000).decode() or "another process"
            raise ConfigError(
                f"{self.path} is trained in by {holder}: let it end, or end it, or give --run another folder; where "
                f"its machine has died and the file system still takes it for alive, remove {file}"
            )
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def open(self, config: Config, data: TrainingData, example_prompts: list[str]) -> list[str]:
        """Makes the folder, or reopens it, and records the config. Until the first checkpoint, everything may change.

        Args:
            config: the resolved config.
            data: a run goes on with the data that it was started with.
            example_prompts: captions of the data.

        Returns:
            the changes of the config against the run so far, in words.

        Raises:
            ConfigError: the run was started with another model, data, seed or optimizer.
        """
        changes = self.changes(config, data)
        if self.latest_checkpoint():
            known = self.load_data().fingerprints
            data = data._replace(fingerprints={name: known[name] or found for name, found in data.fingerprints.items()})
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        write_atomically(self.config_file, dump(config))
        write_atomically(self.data_file, json.dumps(data._asdict(), indent=2) + "\n")
        write_atomically(self.versions_file, json.dumps(versions(), indent=2) + "\n")
        write_atomically(self.example_prompts, "".join(f"{prompt}\n" for prompt in example_prompts))
        return changes

    def changes(self, config: Config, data: TrainingData) -> list[str]:
        """What `open` says, and why it would not; nothing is written."""
        if self.latest_checkpoint() is None:
            return []
        before = self.load_data()
        if before.inputs != data.inputs:
            raise ConfigError(
                f"{self.path} was started with shards of other videos: give --data those, or --run another folder"
            )
        for name, fingerprint in data.fingerprints.items():
            if fingerprint and before.fingerprints[name] and fingerprint != before.fingerprints[name]:
                raise ConfigError(
                    f"{self.path} was started with shards of the {name} {before.fingerprints[name]}, and these are of "
                    f"{fingerprint}: give --data those, or --run another folder"
                )
        old, new = self.load_config().model_dump(), config.model_dump()
        changes = []
        for table, values in new.items():
            pairs = values.items() if isinstance(values, dict) else [("", values)]
            for key, value in pairs:
                was = old[table].get(key) if key else old[table]
                if was == value:
                    continue
                name = f"{table}.{key}" if key else table
                if (table not in _MAY_CHANGE and name not in WHERE_AND_HOW) or name in _MUST_STAY:
                    raise ConfigError(
                        f"{self.path} was started with {name} = {was!r}, and this is {value!r}: "
                        "give --run another folder, or go on with the old value"
                    )
                changes.append(f"{name}: {was!r} before, {value!r} now")
        return changes

    def load_config(self) -> Config:
        """The run's config.

        Raises:
            ConfigError: this is not a run folder.
        """
        if not self.config_file.exists():
            raise ConfigError(f"{self.path} is not a run folder (it has no config.toml): name one that train.py made")
        return load_config(self.config_file)

    def load_data(self) -> TrainingData:
        """What the run was trained on.

        Raises:
            ConfigError: this is not a run folder, or one of an earlier version.
        """
        if not self.data_file.exists():
            raise ConfigError(f"{self.path} is not a run folder of this version (it has no data.json): train it again")
        values = json.loads(self.data_file.read_text(encoding="utf-8"))
        shapes = tuple((Grid(*pixels), clips) for pixels, clips in values.get("shapes", ()))
        return TrainingData(**{**values, "grid": Grid(*values["grid"]), "shapes": shapes})

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def complete_checkpoints(self) -> list[Path]:
        """In the order of their steps."""
        return _complete(self.checkpoints)

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None before the first."""
        pointer = self.checkpoints / "latest"
        return self.checkpoints / pointer.read_text().strip() if pointer.exists() else None

    def publish_checkpoint(self, checkpoint: Path, keep: int) -> None:
        """Names a complete checkpoint as the latest; all but it, the last alarm's and the `keep` newest go.

        So do those of later steps, which a run has left that was made to go on from an earlier one.
        """
        write_atomically(self.checkpoints / "latest", checkpoint.name + "\n")
        replayed = self._checkpoint_of_last_alarm()
        for abandoned in self.complete_checkpoints():
            if step_of(abandoned) > step_of(checkpoint) and abandoned.name != replayed:
                shutil.rmtree(abandoned)
        complete = self.complete_checkpoints()
        for old in [path for path in complete if path != checkpoint][: max(0, len(complete) - keep)]:
            if old.name != replayed:
                shutil.rmtree(old)

    def _checkpoint_of_last_alarm(self) -> str | None:
        alarms = sorted((self.path / "alarms").glob("step-*.json"), key=step_of)
        return json.loads(alarms[-1].read_text(encoding="utf-8"))["checkpoint"] if alarms else None

    def forget_unfinished_checkpoints(self) -> None:
        """Of a run that was killed while it wrote one."""
        for unfinished in self.checkpoints.glob("step-*.unfinished"):
            shutil.rmtree(unfinished)

    def samples(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:06d}"

    def alarm(self, step: int) -> Path:
        return self.path / "alarms" / f"step-{step:06d}.json"

    def snapshot(self, step: int) -> Path:
        return self.path / "snapshots" / f"step-{step:06d}"

    def snapshots(self) -> list[Path]:
        """All complete ones, in the order of their steps."""
        return _complete(self.path / "snapshots")

    def forget_snapshots_after(self, step: int) -> None:
        """A run that was killed had gone on past its last checkpoint; those steps will be taken again."""
        for snapshot in (self.path / "snapshots").glob("step-*"):
            if snapshot.suffix == ".unfinished" or step_of(snapshot) > step:
                shutil.rmtree(snapshot)

    def chosen_checkpoint(self, step: int | None = None) -> Path:
        """The complete checkpoint of a step; None: the newest.

        Raises:
            ConfigError: there is none.
        """
        newest = self.latest_checkpoint()
        if newest is None:
            if self.exported_weights.exists():
                raise ConfigError(f"{self.path} is an exported model, which has no checkpoints: name the run it is of")
            raise ConfigError(f"{self.path} has no checkpoint yet: let scripts/train.py reach its first one")
        if step is None:
            return newest
        complete = self.complete_checkpoints()
        if self.checkpoint(step) not in complete:
            raise ConfigError(
                f"{self.path} has no checkpoint of step {step}: name one of "
                f"{', '.join(str(step_of(path)) for path in complete)}, "
                "or let training.keep_checkpoints keep more next time"
            )
        return self.checkpoint(step)

    def made_of(self, weights: Path) -> dict[str, Path]:
        """The files that a clip depends on which is made with a file of weights, by what they are."""
        files = {"weights": weights, "config": self.config_file}
        needs_frozen = self.frozen_weights.exists() and self.frozen_weights.resolve() != weights.resolve()
        return {**files, "frozen_weights": self.frozen_weights} if needs_frozen else files

    def averaged_weights(self) -> Path:
        """The newest averaged weights, without the `frozen_weights`; of an exported model, its adapters or weights.

        Raises:
            ConfigError: the run has no checkpoint yet.
        """
        for exported in (self.exported_adapters, self.exported_weights):
            if exported.exists():
                return exported
        return self.chosen_checkpoint() / "ema.safetensors"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of `RunFolder.metrics` or `RunFolder.validation` that were written whole; none where there is no file.

    Raises:
        ConfigError: a line is no row.
    """
    if not file.exists():
        return []
    rows = []
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ConfigError(f"line {number} of {file} is no row ({error}): mend it, or remove it") from error
    return rows


def _complete(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.suffix != ".unfinished"), key=step_of)


def step_of(folder: Path) -> int:
    """How many steps were done when a checkpoint or snapshot was written, or which step an alarm is about."""
    return int(folder.stem.partition("-")[2])


def versions() -> dict[str, Any]:
    """Of Python and of what decides results."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _VERSIONED}
