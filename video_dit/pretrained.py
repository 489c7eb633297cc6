"""Where a pretrained model is, and what a user is told when it is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError

from video_dit.errors import UserError


class Source(NamedTuple):
    """A local folder, or a repository of the hub and a folder in it ("" for none)."""

    name: str
    subfolder: str

    @classmethod
    def parse(cls, text: str) -> "Source":
        """A folder, "organization/repository", or "organization/repository/subfolder"."""
        if Path(text).is_dir():
            return cls(text, "")
        organization, _, rest = text.partition("/")
        repository, _, subfolder = rest.partition("/")
        return cls(f"{organization}/{repository}" if repository else text, subfolder)

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    def inside(self, folder: str) -> "Source":
        return self._replace(name=f"{self.name}/{folder}") if self.is_local else self._replace(subfolder=folder)

    def beside(self, prefix: str, other: str) -> "Source":
        """The neighbour in a pipeline, such as "tokenizer_2" of "text_encoder_2"; itself where there is none."""
        path = Path(self.name if self.is_local else self.subfolder)
        neighbour = path.with_name(path.name.replace(prefix, other, 1)) if path.name.startswith(prefix) else path
        if self.is_local:
            return self._replace(name=str(neighbour)) if neighbour.is_dir() else self
        return self._replace(subfolder=neighbour.as_posix() if self.subfolder else "")

    def file(self, name: str) -> Path | None:
        """One of its files on this machine, in the folder or the hub's cache; None where it is not."""
        if self.is_local:
            path = Path(self.name) / name
            return path if path.is_file() else None
        try:
            found = try_to_load_from_cache(self.name, f"{self.subfolder}/{name}" if self.subfolder else name)
        except HFValidationError:  # no name that the hub could have
            return None
        return Path(found) if isinstance(found, str) else None

    @property
    def options(self) -> dict[str, Any]:
        """For every `from_pretrained`: no network where the model is here, or where it is switched off."""
        return {"subfolder": self.subfolder, "local_files_only": self.is_local or constants.HF_HUB_OFFLINE}


@contextmanager
def explained(key: str, text: str, default: str) -> Iterator[None]:
    """Turns what the libraries say of a model that they cannot load into what the user can do.

    Args:
        key: of the config, which names the model.
        text: what it says.
        default: the key and value that need no weights.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{key} names {text}, which cannot be loaded from a config and safetensors: {_reason(text, error)}; or use "
            f"{default}, which needs no weights"
        ) from error


def _reason(text: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    if Path(text).is_dir():
        return f"{reason}. See that the folder is whole"
    if text.startswith(("/", ".", "~")):
        return "there is no such folder. Name the folder of a model, or a model of the hub"
    return (
        f"{reason}. Name the folder of a model, or fetch this one with 'hf download {Source.parse(text).name}' and "
        "without HF_HUB_OFFLINE"
    )


def refuse_missing(key: str, text: str, missing: set[str]) -> None:
    """
    Raises:
        UserError: the file lacks weights, which would be random.
    """
    if missing:
        raise UserError(
            f"{key} names {text}, whose files lack {len(missing)} of the model's weights, such as {min(missing)}: "
            "fetch the whole model"
        )
