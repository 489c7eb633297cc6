"""Made-up tables of a preprocessed data set; as a program, a report of them: report_tables.py OUT KIND [VIDEOS]."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.decoders import read_frames
from data.probe import probe
from data.report.examples import choose_examples
from data.report.html import report_page
from data.report.summary import summary
from data.report.tables import VIDEO_SCHEMA, build_table, clip_schema, probed_columns
from video_dit.config import Config, load_config

NASTY = (
    'a <b>bold</b> & "quoted" \'name\'.mp4', "two\nlines\t.mp4", "👩🏽‍🚒 firefighter.mp4", "</script><img src=x>.mp4",
    "folder/" + "very-long-name-" * 30 + ".mp4", "right\u202eto left.mp4", "https://example.org/x.mp4",
)  # fmt: skip
LIMITS = {"min_motion": 0.05, "max_motion": 3.0, "min_brightness": 0.06, "min_sharpness": 40.0, "min_seconds": 1.0}
WORDS = {
    "motion": "moves too little", "brightness": "is too dark", "sharpness": "is blurred", "seconds": "is too short"
}  # fmt: skip
SHAPES = ((16, 128, 128), (16, 96, 160), (8, 160, 96))


def made_info(config: Config, clips: pa.Table) -> dict[str, Any]:
    """As dataset.json has it."""
    tables = config.model_dump(mode="json")
    names = ("data", "shots", "filters", "captioner", "buckets", "autoencoder", "text_encoder")
    return {
        "version": 2,
        "tables": {name: tables[name] for name in names},
        "inputs": "0" * 32,
        "fingerprints": {"autoencoder": "pixel", "text_encoder": None},
        "encoded": {
            "channels": 3, "grid": [16, 128, 128], "text_length": 16, "text_width": 64, "pooled_width": 64,
            "segments": [],
        },
        "shards": {name: {} for name in set(clips["shard"].to_pylist()) - {None}},
    }  # fmt: skip


def made_tables(
    videos: Sequence[Mapping[str, Any]],
    captions: Mapping[str, str],
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    scorers: Sequence[str] = ("aesthetic",),
    rng: np.random.Generator | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Tables in which some videos and clips are dropped, by `LIMITS`.

    Args:
        videos: rows of videos.parquet, with `id` and the columns of the probe; some may have a `rule` already.
        captions: by the id of a video.
        shapes: of the clips that are kept, the first the most frequent.
        scorers: names of further scores.
    """
    rng = rng or np.random.default_rng(0)
    clip_rows, video_rows = [], []
    for video in videos:
        row = {"clips": 0, "notes": [], **video}
        if "rule" not in row and row["seconds"] < LIMITS["min_seconds"]:
            row |= {
                "rule": "filters.min_seconds",
                "reason": WORDS["seconds"],
                "score": row["seconds"],
                "threshold": 1.0,
            }
        if "rule" not in row:
            clips = [_clip(row, k, captions, shapes, scorers, rng) for k in range(math.ceil(row["seconds"] / 3))]
            row["clips"] = sum("rule" not in clip for clip in clips)
            if not row["clips"]:
                row |= {"rule": "no clip", "reason": "all of its clips were dropped"}
            if row["id"] not in captions:
                row["notes"] = ["without a caption, and given an empty one"]
            clip_rows += clips
        video_rows.append(row)
    return build_table(video_rows, VIDEO_SCHEMA), build_table(clip_rows, clip_schema(scorers))


def _clip(
    video: Mapping[str, Any], index: int, captions: Mapping[str, str], shapes: Sequence[tuple[int, int, int]],
    scorers: Sequence[str], rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    scores = {
        "motion": rng.gamma(1.2, 0.4), "brightness": rng.beta(3, 4), "sharpness": rng.lognormal(5, 1.0),
        "change": rng.gamma(2, 0.01), "bars": max(0.0, rng.normal(-0.1, 0.1)), "difference": rng.beta(5, 4),
        **{name: rng.normal(5, 0.8) for name in scorers},
    }  # fmt: skip
    row = {
        "id": f"{video['id']}#{index}", "video": video["id"], "shot": index, "start": 3.0 * index,
        "seconds": float(min(3.0, video["seconds"] - 3.0 * index)), **scores,
        "captions": [captions[video["id"]]] if video["id"] in captions else [], "weights": [1.0],
    }  # fmt: skip
    for name in ("motion", "brightness", "sharpness"):
        if scores[name] < LIMITS[f"min_{name}"]:
            drop = {"reason": WORDS[name], "score": scores[name], "threshold": LIMITS[f"min_{name}"]}
            return row | {"rule": f"filters.min_{name}"} | drop
    shape = shapes[min(int(rng.geometric(0.5)) - 1, len(shapes) - 1)]
    return row | dict(zip(("frames", "height", "width"), shape, strict=True)) | {"shard": "shard-00000.arrow"}


def made_videos(count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of probed videos, some with nasty names, and of files that cannot be read."""
    rows = []
    for index in range(count):
        name = NASTY[index] if index < len(NASTY) else f"clips/video-{index:05d}.mp4"
        height, width = [(720, 1280), (1080, 1920), (1280, 720)][int(rng.integers(3))]
        rows.append({
            "id": name, "format": "mov,mp4", "codec": "h264", "height": height, "width": width,
            "frame_rate": float(rng.choice([23.976, 25.0, 29.97, 60.0])), "seconds": float(rng.lognormal(1.5, 0.9)),
            "frames": 100, "start": 0.0,
        })  # fmt: skip
    for index in range(count // 10):
        reason = ["is empty (0 bytes)", "is text, not a video", f"ends after {index} of the 900 frames"][index % 3]
        rows.append({"id": f"broken/{index}.mp4", "rule": "unreadable", "reason": reason})
    return rows


def noise(ids: Sequence[str], rng: np.random.Generator) -> dict[str, list[NDArray[np.uint8]]]:
    """Pictures that cannot be compressed."""
    return {id_: list(rng.integers(0, 256, (4, 72, 128, 3), dtype=np.uint8)) for id_ in ids}


def _probed(folder: Path) -> list[dict[str, Any]]:
    config = load_config()
    paths = sorted(path for path in folder.rglob("*.mp4") if "corrupt" not in path.parts)
    return [
        {"id": path.relative_to(folder).as_posix(), **probed_columns(probe(path, config.data.limits))}
        for path in paths[:: max(1, len(paths) // 250)]
    ]


def _main() -> None:
    out, kind = Path(sys.argv[1]), sys.argv[2]
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    overrides = [f"filters.{key}={value}" for key, value in LIMITS.items()] + ["data.fps=12", "buckets.sizes=[128]"]
    config = load_config(None, [*overrides, "filters.scorers.aesthetic='mine:score'"])
    rows = _probed(folder) if folder else made_videos(300, rng)
    captions = {row["id"]: f"a clip of {Path(row['id']).stem}, seen from the side " * (1 + k % 4)
                for k, row in enumerate(rows) if k % 9}  # fmt: skip
    if kind == "crowded":
        shapes = [(8 * (1 + k % 5), 64 + 32 * (k // 5), 128) for k in range(40)]
        videos, clips = made_tables(rows, captions, shapes, [f"score {k}" for k in range(3)], rng)
        extra = [
            {"id": f"extra/{k}.mp4", "clips": 0, "rule": f"filters.max_scores.some_rule_{k}", "notes": [],
             "reason": f"reason {k} " * (1 + k % 7), "score": k / 7, "threshold": 0.1 * k}
            for k in range(100)
        ]  # fmt: skip
        videos = pa.concat_tables([videos, build_table(extra, VIDEO_SCHEMA)])
    elif kind == "bare":
        for row in rows:
            row["seconds"] = 2.0
        videos, clips = made_tables(rows, {}, SHAPES[:1], (), rng)
        clips = clips.filter(clips["rule"].is_null())
        empty = pa.nulls(len(clips), pa.float64())
        for name in ("motion", "brightness", "sharpness", "change", "bars", "difference"):
            clips = clips.set_column(clips.schema.get_field_index(name), name, empty)
        videos = videos.filter(pa.compute.greater(videos["clips"], 0))
        config = load_config()
    elif kind == "empty":
        videos, clips = made_tables([row for row in rows if "rule" in row], {})
    else:
        videos, clips = made_tables(rows, captions, SHAPES, ("aesthetic",), rng)
    pictures: dict[str, list[NDArray[np.uint8]]] = {}
    examples = choose_examples(videos, clips, seed=0, per_bucket=9, per_rule=3)
    if folder:
        for example in examples:
            path = folder / example.video
            info = probe(path, config.data.limits)
            times = np.linspace(example.start, example.start + example.seconds, 4, endpoint=False)
            size = (info.size[0] * 200 // max(info.size), info.size[1] * 200 // max(info.size))
            frames = read_frames(path, info, times, size, "pyav", config.data.limits)
            pictures[example.id] = [picture.pixels for picture in frames]
    elif kind != "bare":
        pictures = noise([example.id for example in examples], rng)
    command = f"python scripts/preprocess.py 'my videos' --out {out} \\\n    filters.min_motion=0.05"
    report = report_page(str(out), made_info(config, clips), videos, clips, pictures, command)
    (out / "report.html").write_text(report, encoding="utf-8")
    print(summary(videos, clips), os.path.getsize(out / "report.html"), len(examples), sep="\n")


if __name__ == "__main__":
    _main()
