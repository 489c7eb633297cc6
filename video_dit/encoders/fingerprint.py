"""Which model it is that made some latents, embeddings or captions, told from its files without loading it.

A fingerprint depends on what a model gives: its kind, its settings, its vocabulary and its weights. It does not depend
on the folder, nor on the keys of `WHERE_AND_HOW`, which change values by rounding alone or at seams.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_dit.config import WHERE_AND_HOW, AutoencoderConfig, CaptionerConfig, Config, TextEncoderConfig
from video_dit.errors import UserError

if TYPE_CHECKING:
    from video_dit.pretrained import Source

BYTES_PER_TENSOR = 256
"""Read from the middle of each tensor.

With the header, which has the names, shapes and types of all tensors, this tells models apart that differ in any way
that training makes: fine-tuning a layer changes most of its numbers, and all layers are looked at. A change of a few
single numbers by hand would be missed. Less than a megabyte is read of ten gigabytes.
"""

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")
_OF_PROCESSORS = (
    "tokenizer_config.json", "special_tokens_map.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "chat_template.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
_NOT_SETTINGS = ("_name_or_path", "_diffusers_version", "transformers_version", "torch_dtype", "dtype")

_OF_CAPTIONERS = frozenset(f"captioner.{key}" for key in ("model", "url", "batch_size", "weight"))
"""What `WHERE_AND_HOW` is to encoders; training needs no captioner."""

Table = AutoencoderConfig | TextEncoderConfig | CaptionerConfig


def encoder_fingerprint(table: Table) -> str | None:
    """
    Args:
        table: the [autoencoder], [text_encoder] or [captioner] table.

    Returns:
        32 hexadecimal digits; None where the files of a pretrained encoder are not on this machine, or a captioner is
        no folder.

    Raises:
        UserError: a file of weights is damaged.
    """
    name, not_settings = _name_of(table), WHERE_AND_HOW | _OF_CAPTIONERS
    settings = {key: value for key, value in table.model_dump().items() if f"{name}.{key}" not in not_settings}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for model in _models(table):
        files = _FILES[name](model)
        if files is None:
            return None
        for file in files:
            for part in _parts(file):
                digest.update(hashlib.blake2b(part).digest())
    return digest.hexdigest()


def encoder_fingerprints(config: Config) -> dict[str, str | None]:
    """Of both encoders, by the names of their tables."""
    return {_name_of(table): encoder_fingerprint(table) for table in (config.autoencoder, config.text_encoder)}


def check_encoders(config: Config, fingerprints: Mapping[str, str | None], source: str) -> list[str]:
    """That the encoders of a config are those that something was made with.

    Args:
        config: its tables [autoencoder] and [text_encoder] are read.
        fingerprints: of those that it was made with, by the names of these tables.
        source: names it, in errors.

    Returns:
        a sentence for each encoder that could not be compared.

    Raises:
        UserError: one is another.
    """
    told = []
    for name, ours in encoder_fingerprints(config).items():
        table, theirs = getattr(config, name), fingerprints[name]
        where = f"{name} ({', '.join(_models(table)) or table.name})"
        if ours is None:
            told.append(f"{where} is not on this machine, and could not be compared with that of {source}")
        elif theirs is None:
            told.append(f"{where} could not be compared: {source} does not say which one it was made with")
        elif ours != theirs:
            raise UserError(
                f"{source} was made with the {name} {theirs}, and {where} of this config is {ours}: "
                "name the folder of the same model, or preprocess and train with this one"
            )
    return told


def _name_of(table: Table) -> str:
    if isinstance(table, CaptionerConfig):
        return "captioner"
    return "autoencoder" if isinstance(table, AutoencoderConfig) else "text_encoder"


def _models(table: Table) -> tuple[str, ...]:
    if isinstance(table, TextEncoderConfig):
        return table.models
    return () if table.model is None else (table.model,)


def _autoencoder_files(model: str) -> list[Path] | None:
    from video_dit.pretrained import Source

    source = Source.parse(model)
    if source.file("config.json") is None and not source.subfolder:
        source = source.inside("vae")
    return _model_files(source, "diffusion_pytorch_model")


def _text_encoder_files(model: str) -> list[Path] | None:
    from video_dit.pretrained import Source

    source = Source.parse(model)
    files = _model_files(source, "model")
    tokenizer = source.beside("text_encoder", "tokenizer")
    vocabularies = [file for file in map(tokenizer.file, _VOCABULARIES) if file is not None]
    return files and files + vocabularies


def _captioner_files(model: str) -> list[Path] | None:
    """Of a folder; a model of the hub may be fetched by the workers in the meantime, and would then be another."""
    files = _text_encoder_files(model) if Path(model).is_dir() else None
    return files and files + [path for name in _OF_PROCESSORS if (path := Path(model) / name).is_file()]


_FILES = {"autoencoder": _autoencoder_files, "text_encoder": _text_encoder_files, "captioner": _captioner_files}


def _model_files(source: "Source", stem: str) -> list[Path] | None:
    """The settings and the weights, those that `from_pretrained` takes; None where one is not here."""
    index = source.file(f"{stem}.safetensors.index.json")
    names = [f"{stem}.safetensors"]
    if source.file(names[0]) is None and index is not None:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [source.file(name) for name in ("config.json", *names)]
    found = [file for file in files if file is not None]
    return found if len(found) == len(files) else None


def _parts(file: Path) -> Iterator[bytes]:
    """What the fingerprint takes of a file."""
    if file.name == "config.json":
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: value for key, value in settings.items() if key not in _NOT_SETTINGS}
        yield json.dumps(kept, sort_keys=True).encode()
    elif file.suffix == ".safetensors":
        yield from _weights(file)
    else:
        yield file.read_bytes()


def _weights(file: Path) -> Iterator[bytes]:
    """The size, the header and the middle of each tensor."""
    yield str(file.stat().st_size).encode()
    with file.open("rb") as weights:
        length = int.from_bytes(weights.read(8), "little")
        header = weights.read(min(length, file.stat().st_size))
        yield header
        try:
            tensors = json.loads(header)
        except ValueError as error:
            raise UserError(f"{file} is damaged (its header cannot be read): fetch the model again") from error
        tensors.pop("__metadata__", None)
        for _, tensor in sorted(tensors.items()):
            start, stop = tensor["data_offsets"]
            first = max(start, (start + stop - BYTES_PER_TENSOR) // 2)
            weights.seek(8 + length + first)
            yield weights.read(min(stop - first, BYTES_PER_TENSOR))
