"""What a user asks for, one clip at a time: on the command line, in a file of prompts, or once more."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from video_dit.config import SamplingConfig, explain
from video_dit.config.table import Count, Table
from video_dit.errors import UserError

PATHS = ("image", "last_image", "video")


class ClipRequest(Table):
    """One clip. What is None is as in training, or does not apply; see `VideoPipeline`."""

    prompt: str
    negative_prompt: str = ""
    seed: int = Field(0, ge=0, lt=2**63)
    num_frames: Count | None = None
    height: Count | None = None
    width: Count | None = None
    fps: float | None = Field(None, ge=0.01, le=1000)
    window: Count | None = None
    overlap: Count | None = None
    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    name: str | None = Field(None, pattern=r"^[^/\\.][^/\\]*$")
    sampling: dict[str, Any] = Field({}, description="keys of the config's [sampling]")

    @property
    def settings(self) -> dict[str, Any]:
        """What clips that are made in one batch have in common, as `VideoPipeline` takes it."""
        own = {key: getattr(self, key) for key in ("num_frames", "height", "width", "fps", "window", "overlap")}
        return {**own, **self.sampling}


REQUEST_KEYS = tuple(key for key in ClipRequest.model_fields if key != "sampling")
SAMPLING_KEYS = tuple(SamplingConfig.model_fields)


def parse_request(values: Mapping[str, Any], folder: Path = Path()) -> ClipRequest:
    """A request from its keys and those of [sampling], side by side.

    Args:
        values: the keys.
        folder: what paths are relative to.

    Raises:
        UserError: a key is unknown or missing, or a value is none that it can have.
    """
    known = (*REQUEST_KEYS, *SAMPLING_KEYS)
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise UserError(f"{key}: unknown key; {advice}")
    own = {key: values[key] for key in REQUEST_KEYS if key in values}
    own |= {key: folder / own[key] for key in PATHS if isinstance(own.get(key), str)}
    sampling = {key: values[key] for key in SAMPLING_KEYS if key in values}
    try:
        SamplingConfig.model_validate(sampling)
        return ClipRequest.model_validate({**own, "sampling": sampling})
    except ValidationError as error:
        raise UserError(explain(error)) from error


def read_requests(path: Path, defaults: Mapping[str, Any]) -> list[ClipRequest]:
    """The requests of a text file, a prompt per line, or of a JSONL file, an object per line; empty lines are nothing.

    Args:
        path: the file; paths in it are relative to its folder.
        defaults: keys of the lines that do not say otherwise.

    Raises:
        UserError: there is no such file, or a line is wrong.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file of prompts")
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"{path}: a file of prompts ends in .txt, a prompt per line, or .jsonl, an object per line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # others' ends of lines may stand in a string of JSON
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text: {error}") from error
    requests = []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = _parse_line(line) if path.suffix == ".jsonl" else {"prompt": line.strip()}
            request = parse_request({**defaults, **values}, path.parent)
            if request.name in names:
                raise UserError(f"name = {request.name!r}: line {names[request.name]} has it already; use another")
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if request.name is not None:
            names[request.name] = number
        requests.append(request)
    return requests


def _parse_line(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError('must be an object, such as {"prompt": "a red circle", "seed": 1}')
    return values
