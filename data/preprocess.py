"""From videos to shards: the whole of it, and the plan of it."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pyarrow as pa

from data.dataset_info import Bucket, DatasetInfo, Holds, bucket_name, covering
from data.engine import Engine
from data.output import OutputFolder, output_folder
from data.preprocessing import Candidate, Input, Preprocessing, ShowProgress, fingerprint_of, fingerprint_of_files
from data.report.drops import find_drops
from data.report.examples import choose_examples
from data.report.html import REPORT_FILE, report_page
from data.report.summary import summary
from data.report.tables import (
    CLIPS_FILE,
    VIDEO_SCHEMA,
    VIDEOS_FILE,
    build_table,
    clip_schema,
    probed_columns,
    table_bytes,
)
from data.sources.discovery import Video, discover, root_of
from data.stages.encoding import EncoderSource
from data.storage import is_url
from data.units.looks import Look, scorer_code
from data.units.shards import OWN_FILES, empty_prompt_file
from video_dit.config import Config
from video_dit.contracts import EncodedShape
from video_dit.errors import UserError

RESULTS = "work"
"""The folder, in that of the shards, where the results of units are kept."""

TABLES = ("data", "shots", "filters", "captioner", "buckets", "autoencoder", "text_encoder")
"""Of the config; all that decides what shards hold."""

NUM_EXAMPLE_PROMPTS = 8
PER_BUCKET, PER_RULE = 8, 4
"""Examples in the report."""


def preprocess(
    source: str,
    out: str,
    config: Config,
    encoders: EncoderSource,
    engine: AbstractContextManager[Engine],
    overwrite: bool,
    holds: Holds,
    show_progress: ShowProgress,
    command: str,
) -> str | None:
    """All stages. What an earlier run has done, and still holds, is not done again.

    Args:
        source: a folder of videos, a manifest or a tar; a path, or a URL that fsspec reads.
        out: the folder for the shards; a path, or a URL that fsspec writes.
        config: `TABLES` of it are read, and `model.patch_size` for the budget of tokens.
        encoders: how a worker comes by its encoders.
        engine: who works; entered when there is something to do.
        overwrite: replace shards that were made from something else; what is gone of `RESULTS` is made again, too.
        holds: what shards hold; of videos only the places where they are.
        show_progress: shows each stage.
        command: for the report: the one that makes the same again.

    Returns:
        what became of it all, for the terminal; None when `out` already holds just these shards.

    Raises:
        UserError: the source cannot be used, clips of these sizes do not fit the autoencoder, `out` holds other shards,
            is the folder of the source or not that of the workers, or no clip is left, with the change that would help.
    """
    folder = output_folder(out)
    videos, dropped = discover(source, config.data)
    if _resolved(out) == _resolved(root_of(source)):
        raise UserError(f"{out} is the folder of the source, whose files could be replaced: give another --out")
    origin = _Origin.of(videos, config, encoders, holds)
    existing = _existing(folder, out, overwrite)
    if existing is not None and not overwrite:
        if not _is_made_of(existing, origin, encoders):
            raise UserError(
                f"{out} holds shards that were made from other videos or settings: give --overwrite, or another --out"
            )
        if _is_current(existing, origin, folder):
            _remove_others(folder, existing)
            return None
    folder.clean()
    with engine as running:
        results = output_folder(f"{out}/{RESULTS}")
        work = Preprocessing(videos, dropped, config, encoders, running, results, show_progress)
        work.probe()
        work.refuse_nothing()
        work.cut()
        work.filter()
        work.describe()
        work.assign_buckets()
        work.refuse_nothing()
        work.write_shards(folder, holds)
        work.refuse_nothing()
        return _write_outcome(work, out, folder, origin, command)


class _Origin(NamedTuple):
    """What shards are made from, as `DatasetInfo` has it."""

    tables: dict[str, Any]
    inputs: str
    files: str
    describers: dict[str, str | None]
    holds: Holds

    @classmethod
    def of(cls, videos: Sequence[Video], config: Config, encoders: EncoderSource, holds: Holds) -> "_Origin":
        tables = {name: getattr(config, name).model_dump(mode="json") for name in TABLES}
        describers = {f"filters.scorers.{name}": code for name, code in scorer_code(config.filters.scorers).items()}
        describers["captioner"] = encoders.fingerprint(config.captioner)
        return cls(tables, fingerprint_of(videos), fingerprint_of_files(videos, holds), describers, holds)


def explain(
    source: str,
    config: Config,
    encoders: EncoderSource,
    engine: AbstractContextManager[Engine],
    results: OutputFolder,
    show_progress: ShowProgress,
) -> str:
    """How many clips each bucket would get, and what would be dropped, by the headers of the videos alone.

    Raises:
        UserError: as `preprocess`.
    """
    videos, dropped = discover(source, config.data)
    with engine as running:
        work = Preprocessing(videos, dropped, config, encoders, running, results, show_progress)
        work.probe()
    work.plan()
    work.assign_buckets()
    work.refuse_nothing()
    return summary(*_tables(work))


def _resolved(location: str) -> str:
    return location.rstrip("/") if is_url(location) else os.path.realpath(location)


def _existing(folder: OutputFolder, out: str, overwrite: bool) -> DatasetInfo | None:
    """What is there; None too where it is of another version and may go."""
    content = folder.read("dataset.json")
    try:
        return None if content is None else DatasetInfo.parse(content, f"{out}/dataset.json")
    except UserError:
        if not overwrite:
            raise
        return None


def _is_made_of(existing: DatasetInfo, origin: _Origin, encoders: EncoderSource) -> bool:
    """Whether shards are of the same videos and settings."""
    same = (existing.tables, existing.inputs, existing.holds) == (origin.tables, origin.inputs, origin.holds)
    return same and _agree(existing.fingerprints, encoders.fingerprints())


def _is_current(existing: DatasetInfo, origin: _Origin, folder: OutputFolder) -> bool:
    """Whether shards are whole, and nothing was replaced since that they were made with."""
    same = existing.files == origin.files and _agree(existing.describers, origin.describers)
    return same and folder.size(existing.empty_prompt) is not None and not _missing(existing, folder)


def _agree(theirs: Mapping[str, str | None], ours: Mapping[str, str | None]) -> bool:
    """What nobody can compare is taken for the same."""
    return all(None in (version, theirs[name]) or version == theirs[name] for name, version in ours.items())


def _missing(info: DatasetInfo, folder: OutputFolder) -> list[str]:
    """Shards that are not there or, as their lengths tell, not whole; a network's folder may be listed as it was."""
    sizes, expected = folder.sizes(), {name: shard.bytes for name, shard in info.shards.items()}
    return [name for name, size in expected.items() if sizes.get(name) != size and folder.size(name) != size]


def _write_outcome(work: Preprocessing, out: str, folder: OutputFolder, origin: _Origin, command: str) -> str:
    """All is made first; then it is written, dataset.json last, and what an earlier run left is removed.

    Raises:
        UserError: a worker wrote a shard to another folder.
    """
    videos, clips = _tables(work)
    encoders = work.encoder_info
    kept = [candidate for candidate in work.candidates if candidate.drop is None]
    used = {candidate.grid for candidate in kept}
    buckets = {bucket_name(grid): Bucket.of(grid, encoders) for grid in work.grids if grid in used}
    info = DatasetInfo(
        **origin._asdict(),
        fingerprints=encoders.fingerprints,
        encoded=EncodedShape.of(work.grids[0], encoders, encoders)._replace(
            grid=covering(bucket.latents for bucket in buckets.values())
        ),
        buckets=buckets,
        shards={shard.file: shard.info for shard in work.shards if shard.file is not None},
        empty_prompt=empty_prompt_file(encoders.empty_prompt),
        counts={
            "videos": len(work.inputs), "videos_with_clips": len({c.source.id for c in kept}), "clips": len(kept)
        },
        dropped=[drop.as_json() for drop in find_drops(videos, clips)],
    )  # fmt: skip
    if missing := _missing(info, folder):
        raise UserError(
            f"{missing[0]} is not in {out}, where a worker wrote it: name an --out that all machines have mounted at "
            "the same path, or a URL"
        )
    prompts = _spread(list(dict.fromkeys(caption.text for c in kept for caption in c.captions)), NUM_EXAMPLE_PROMPTS)
    report = report_page(out, info.to_json(), videos, clips, _pictures(work, videos, clips), command)
    folder.write(info.empty_prompt, encoders.empty_prompt)
    folder.write("example_prompts.txt", "".join(f"{prompt}\n" for prompt in prompts).encode())
    folder.write(VIDEOS_FILE, table_bytes(videos))
    folder.write(CLIPS_FILE, table_bytes(clips))
    folder.write(REPORT_FILE, report.encode())
    folder.write("dataset.json", info.to_bytes())
    _remove_others(folder, info)
    return summary(videos, clips)


def _remove_others(folder: OutputFolder, info: DatasetInfo) -> None:
    """What an earlier run has left."""
    mine = {*info.shards, info.empty_prompt}
    for name in folder.sizes():
        if OWN_FILES.fullmatch(name) and name not in mine:
            folder.delete(name)


def _pictures(work: Preprocessing, videos: pa.Table, clips: pa.Table) -> dict[str, Any]:
    entries = {entry.id: entry for entry in work.inputs if entry.video is not None}  # one may be listed twice
    examples = choose_examples(videos, clips, work.config.seed, PER_BUCKET, PER_RULE)
    looks = []
    for example in examples:
        entry = entries[example.video]
        assert entry.video is not None
        assert entry.info is not None
        looks.append(Look(example.id, entry.video, entry.info, example.start, example.seconds))
    return work.take_pictures(looks)


def _tables(work: Preprocessing) -> tuple[pa.Table, pa.Table]:
    kept: dict[str, int] = {}
    for candidate in work.candidates:
        kept[candidate.source.id] = kept.get(candidate.source.id, 0) + (candidate.drop is None)
    counts = (0 if entry.drop else kept.get(entry.id, 0) for entry in work.inputs)
    videos = build_table(map(_video_row, work.inputs, counts), VIDEO_SCHEMA)
    schema = clip_schema(work.config.filters.scorers)
    return videos, build_table((_clip_row(candidate) for candidate in work.candidates), schema)


def _video_row(entry: Input, clips: int) -> dict[str, Any]:
    probed = {} if entry.info is None else probed_columns(entry.info)
    drop = {} if entry.drop is None else entry.drop._asdict()
    return {"id": entry.id, "clips": clips, "notes": list(dict.fromkeys(entry.notes)), **drop, **probed}


def _clip_row(candidate: Candidate) -> dict[str, Any]:
    clip = candidate.clip
    drop = {} if candidate.drop is None else candidate.drop._asdict()
    shape = {} if candidate.grid is None or candidate.drop else candidate.grid._asdict()
    return {
        "id": clip.id, "video": candidate.source.id, "shot": clip.shot, "start": clip.start, "seconds": clip.seconds,
        **candidate.scores, "duplicate_of": candidate.duplicate_of,
        "captions": [caption.text for caption in candidate.captions],
        "weights": [caption.weight for caption in candidate.captions],
        "shard": candidate.shard, **shape, **drop,
    }  # fmt: skip


def _spread(items: list[str], count: int) -> list[str]:
    """At most `count` of the items that say something, from all over the list."""
    items = [item for item in items if item]
    return [items[index * len(items) // count] for index in range(count)] if len(items) > count else items
