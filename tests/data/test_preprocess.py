import inspect
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from caption_server import Stub, said
from preprocessed import encoder_source, preprocess_here, unseen
from safetensors.torch import save_file

from data.dataset_info import DatasetInfo, verify
from data.engine import InProcess, Unit
from data.output import LocalOutput, OutputFolder
from data.preprocess import explain
from data.shards import ShardReader, StoredSample
from data.sources.captions import CLEANED
from data.stages.captioners import build_captioner
from data.units import looks
from data.video import read_windows, write_mp4
from video_dit.config import Config, load_config
from video_dit.contracts import TextCondition
from video_dit.encoders import build_text_encoder
from video_dit.errors import UserError
from video_dit.frames import to_uint8

BASE = (
    "data.fps=8", "data.num_frames=4", "data.height=32", "data.width=32", "data.clips_per_shard=2",
    "text_encoder.max_length=4", "shots.detector=none",
)  # fmt: skip


@pytest.fixture
def config() -> Config:
    return load_config(None, BASE)


@pytest.fixture
def messy(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A good video of 10 frames, one that is too short, one that is no video, one without a caption."""
    folder = tmp_path / "messy"
    folder.mkdir()
    for name, count in (("good", 10), ("short", 2), ("silent", 4)):
        write_mp4(folder / f"{name}.mp4", rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), fps=8)
    (folder / "broken.mp4").write_text("no video at all")
    for name in ("good", "short", "broken"):
        (folder / f"{name}.txt").write_text("a caption of more than four words")
    return folder


def samples_of(folder: Path) -> list[StoredSample]:
    return [sample for name in DatasetInfo.read(folder).shards for sample in ShardReader(folder / name)]


def videos_of(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(folder / "videos.parquet").to_pylist()}


def stored_text(config: Config, captions: list[str]) -> TextCondition:
    """As the text encoder gives it, in the precision of shards."""
    embeds, mask, pooled = build_text_encoder(config.text_encoder).encode(captions)
    return TextCondition(embeds.bfloat16(), mask, pooled.bfloat16())


def test_every_input_is_accounted_for(messy: Path, tmp_path: Path, config: Config) -> None:
    out = tmp_path / "out"
    summary = preprocess_here(messy, out, config)
    assert summary is not None
    assert summary.startswith("videos: 4 in, 2 with clips, 2 without\nclips: 3 cut, 3 kept, 0 dropped\n")
    for words in (
        "is text, not a video, such as broken.mp4",
        "shorter than a clip (4 frames at 8 fps), such as short.mp4",
    ):
        assert words in summary
    videos = videos_of(out)
    assert {name: (row["clips"], row["rule"]) for name, row in videos.items()} == {
        "broken.mp4": (0, "unreadable"), "good.mp4": (2, None), "short.mp4": (0, "data.num_frames"),
        "silent.mp4": (1, None),
    }  # fmt: skip
    assert (videos["short.mp4"]["score"], videos["short.mp4"]["threshold"]) == (0.25, 0.5)
    assert (videos["good.mp4"]["codec"], videos["good.mp4"]["frames"], videos["broken.mp4"]["codec"]) == (
        "h264",
        10,
        None,
    )
    assert videos["good.mp4"]["notes"] == ["with a caption cut to 4 tokens (text encoder: hash)"]
    assert videos["silent.mp4"]["notes"] == ["without a caption, and given an empty one"]
    clips = pq.read_table(out / "clips.parquet").to_pylist()
    assert [(row["id"], row["start"], row["seconds"], row["frames"]) for row in clips] == [
        ("good.mp4#0", 0.0, 0.5, 4), ("good.mp4#1", 0.5, 0.5, 4), ("silent.mp4#0", 0.0, 0.5, 4)
    ]  # fmt: skip
    info = DatasetInfo.read(out)
    assert [(shard.clips, shard.bucket) for shard in info.shards.values()] == [(2, "4x32x32"), (1, "4x32x32")]
    assert [row["shard"] for row in clips] == [name for name, shard in info.shards.items() for _ in range(shard.clips)]
    assert info.counts == {"videos": 4, "videos_with_clips": 2, "clips": 3}
    assert [(row["rule"], row["videos"], row["example"]) for row in info.dropped] == [
        ("data.num_frames", 1, "short.mp4"), ("unreadable", 1, "broken.mp4")
    ]  # fmt: skip
    assert verify(out) == []
    assert "shorter than a clip" in (out / "report.html").read_text()


def test_shards_hold_the_decoded_pixels_and_the_encoded_caption(messy: Path, tmp_path: Path, config: Config) -> None:
    preprocess_here(messy, tmp_path / "out", config)
    first, second, _ = samples_of(tmp_path / "out")
    assert (first.id, second.id) == ("good.mp4#0", "good.mp4#1")
    for sample, window in zip((first, second), read_windows(messy / "good.mp4", config.data), strict=True):
        assert np.array_equal(to_uint8(sample.latents[None].float())[0].numpy(), window.frames)
        assert [value.tolist() for value in sample.clip] == [config.data.fps, [*window.source_size], [*window.crop]]
    text = stored_text(config, ["a caption of more than four words"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.text, text, strict=True))


def test_captions_can_be_demanded(messy: Path, tmp_path: Path) -> None:
    preprocess_here(messy, tmp_path / "out", load_config(None, [*BASE, "data.missing_caption=drop"]))
    row = videos_of(tmp_path / "out")["silent.mp4"]
    assert (row["rule"], row["reason"], row["clips"]) == ("data.missing_caption", "no caption", 0)


def test_a_shard_holds_all_captions_of_a_clip_with_their_weights(messy: Path, tmp_path: Path) -> None:
    rows = [
        {"path": "good.mp4", "original": "red", "synthetic": "a red\x00 circle"},
        {"path": "silent.mp4", "synthetic": "blue"},
    ]
    (messy / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config(None, [*BASE, "data.caption_columns={original = 0.5, synthetic = 1.5}"])
    out = tmp_path / "out"
    preprocess_here(messy, out, config)
    first, _, last = samples_of(out)
    assert (first.captions, first.weights) == (("red", "a red circle"), (0.5, 1.5))
    assert (last.captions, last.weights) == (("blue",), (1.5,))
    text = stored_text(config, ["red", "a red circle"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.text, text, strict=True))
    for u, row in ((0.0, 0), (0.2499, 0), (0.2501, 1), (0.9999, 1), (1 - 2**-53, 1)):
        shown = first.show(u, seed=0)
        assert shown.caption == first.captions[row]
        assert all(torch.equal(ours, theirs[row]) for ours, theirs in zip(shown.text, text, strict=True))
    assert (out / "example_prompts.txt").read_text() == "red\na red circle\nblue\n"
    assert {name: row["notes"] for name, row in videos_of(out).items()} == {"good.mp4": [CLEANED], "silent.mp4": []}


def test_a_tar_gives_what_its_files_give(messy: Path, tmp_path: Path, config: Config) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for path in sorted(messy.iterdir()):
            tar.add(path, path.name)
    preprocess_here(messy, tmp_path / "folder", config)
    preprocess_here(tmp_path / "set.tar", tmp_path / "tar", config)
    for ours, theirs in zip(samples_of(tmp_path / "tar"), samples_of(tmp_path / "folder"), strict=True):
        assert (ours.id, ours.captions) == (f"set.tar/{theirs.id}", theirs.captions)
        assert torch.equal(ours.latents, theirs.latents)
    assert {name: row["clips"] for name, row in videos_of(tmp_path / "tar").items()} == {
        "set.tar/broken.mp4": 0, "set.tar/good.mp4": 2, "set.tar/short.mp4": 0, "set.tar/silent.mp4": 1
    }  # fmt: skip


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_odd_file_names_reach_the_shards_and_the_tables(messy: Path, tmp_path: Path, decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    odd = [os.fsdecode(b"caf\xe9.mp4"), "two\nlines.mp4", "it's \U0001f680.mp4"]
    for name in odd:
        shutil.copy(messy / "silent.mp4", messy / name)
    (messy / "bad\x1bname.mp4").touch()
    summary = preprocess_here(messy, tmp_path / "out", load_config(None, [*BASE, f"data.decoder={decoder}"]))
    assert summary is not None
    assert "such as bad\\x1bname.mp4" in summary
    summary.encode("utf-8")
    names = ["caf\\udce9.mp4", "two\nlines.mp4", "it's \U0001f680.mp4"]
    assert {f"{name}#0" for name in names} <= {sample.id for sample in samples_of(tmp_path / "out")}
    assert videos_of(tmp_path / "out").keys() > set(names)


def times_of(out: Path) -> dict[str, int]:
    """When each shard and each result of a unit was written."""
    paths = [*out.glob("shard-*.arrow"), *(out / "work").rglob("*")]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in paths if path.is_file()}


def test_a_second_run_does_nothing_and_another_is_refused(messy: Path, tmp_path: Path, config: Config) -> None:
    out = tmp_path / "out"
    preprocess_here(messy, out, config)
    before = times_of(out)
    assert preprocess_here(messy, out, config) is None
    assert times_of(out) == before

    shutil.copy(messy / "good.mp4", messy / "more.mp4")
    with pytest.raises(UserError, match="made from other videos or settings: give --overwrite"):
        preprocess_here(messy, out, config)
    assert preprocess_here(messy, out, config, overwrite=True) is not None
    assert DatasetInfo.read(out).num_clips == 5
    assert {path.name for path in out.glob("shard-*")} == DatasetInfo.read(out).shards.keys()


@pytest.mark.parametrize("without_info", [False, True])
def test_a_damaged_shard_is_made_again(messy: Path, tmp_path: Path, config: Config, without_info: bool) -> None:
    out = tmp_path / "out"
    preprocess_here(messy, out, config)
    shard = min(out.glob("shard-*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    if without_info:
        (out / "dataset.json").unlink()
    assert preprocess_here(messy, out, config) is not None
    assert shard.read_bytes() == content
    assert preprocess_here(messy, out, config) is None


def test_a_video_that_was_replaced_by_one_of_its_size_is_looked_at_again(
    messy: Path, tmp_path: Path, config: Config, rng: np.random.Generator
) -> None:
    """Both end with a box of nothing."""

    def write(frames: np.ndarray) -> None:
        write_mp4(messy / "good.mp4", frames, fps=8)
        with (messy / "good.mp4").open("ab") as file:
            rest = 100_000 - file.tell()
            file.write(rest.to_bytes(4, "big") + b"free" + bytes(rest - 8))

    out, frames = tmp_path / "out", rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write(frames)
    preprocess_here(messy, out, config)
    before, inputs = samples_of(out), DatasetInfo.read(out).inputs
    write(255 - frames)
    assert preprocess_here(messy, out, config) is not None
    changed = [(old.latents != new.latents).any() for old, new in zip(before, samples_of(out), strict=True)]
    assert changed == [True, False]
    assert DatasetInfo.read(out).inputs == inputs


def test_shards_of_videos_follow_these(messy: Path, tmp_path: Path, config: Config) -> None:
    """To another folder, and into another order in a tar. Shards of latents, of videos that were moved, stay."""

    def pack(names: list[str]) -> Path:
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            for name in names:
                tar.add(messy / name, name)
        os.utime(tmp_path / "set.tar", (0, 0))
        return tmp_path / "set.tar"

    out, latents, moved = tmp_path / "out", tmp_path / "latents", tmp_path / "moved"
    preprocess_here(messy, latents, config)
    preprocess_here(messy, out, config, holds="videos")
    inputs = DatasetInfo.read(out).inputs
    messy.rename(moved)
    assert preprocess_here(moved, latents, config) is None
    assert preprocess_here(moved, out, config, holds="videos") is not None
    places = {sample.cut.place.location for sample in samples_of(out) if sample.cut}
    assert places == {str(moved / "good.mp4"), str(moved / "silent.mp4")}
    assert DatasetInfo.read(out).inputs == inputs
    assert preprocess_here(moved, out, config, holds="videos") is None
    moved.rename(messy)
    names, out = sorted(path.name for path in messy.iterdir()), tmp_path / "of_tar"
    for order in (names, names[::-1]):
        assert preprocess_here(pack(order), out, config, holds="videos") is not None
        with tarfile.open(tmp_path / "set.tar") as tar:
            offsets = {f"set.tar/{member.name}": member.offset_data for member in tar}
        assert all(s.cut and s.cut.place.offset == offsets[s.id.rpartition("#")[0]] for s in samples_of(out))


class Elsewhere(InProcess):
    """What it writes is not where the driver looks for it."""

    def run(self, units: Sequence[Unit], results: OutputFolder) -> Iterator[tuple[int, bytes]]:
        yield from super().run(units, results)
        assert isinstance(results, LocalOutput)
        for shard in results.path.parent.glob("shard-*"):
            shard.unlink()


def test_shards_that_workers_wrote_elsewhere_are_missed(messy: Path, tmp_path: Path, config: Config) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        UserError, match=rf"shard-.*-00000-.*arrow is not in {out}, .*: name an --out that all machines"
    ):
        preprocess_here(messy, out, config, engine=Elsewhere())
    assert [path.name for path in out.iterdir()] == ["work"]


def test_files_that_are_not_its_own_stay(messy: Path, tmp_path: Path, config: Config) -> None:
    out = tmp_path / "out"
    preprocess_here(messy, out, config)
    others = ["shard-000000.tar", "shard-8x32x32-00000.arrow", "notes/draft.tmp"]
    for name in others:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    assert preprocess_here(messy, out, config) is None
    config = load_config(None, [*BASE, "data.clips_per_shard=1"])
    assert preprocess_here(messy, out, config, overwrite=True) is not None
    assert [(out / name).read_text() for name in others] == others


def test_the_folder_of_the_source_is_not_written_to(
    messy: Path, tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (messy / "clips.jsonl").write_text(json.dumps({"path": "good.mp4", "caption": "red"}))
    with tarfile.open(messy / "shard-000000.tar", "w") as tar:
        tar.add(messy / "good.mp4", "good.mp4")
    before = sorted(messy.iterdir())
    (tmp_path / "link").symlink_to(messy)
    monkeypatch.chdir(messy)
    for source, out in ((messy, messy), (messy, "."), (f"{messy}/", tmp_path / "link"), ("clips.jsonl", messy)):
        with pytest.raises(UserError, match=f"{out} is the folder of the source, .*: give another --out"):
            preprocess_here(source, out, config)
    assert sorted(messy.iterdir()) == before
    assert preprocess_here(messy, messy / "shards", config) is not None


def test_shards_of_another_version_are_replaced_when_that_is_asked_for(
    messy: Path, tmp_path: Path, config: Config
) -> None:
    out = tmp_path / "out"
    preprocess_here(messy, out, config)
    file, shards = out / "dataset.json", {path.name for path in out.glob("shard-*")}
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 1}))
    with pytest.raises(UserError, match=rf"{file} is of version 1, .* --overwrite"):
        preprocess_here(messy, out, config)
    assert preprocess_here(messy, out, config, overwrite=True) is not None
    assert DatasetInfo.read(out).shards.keys() == shards


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("filters.max_bars=0.9", set()),
        ("data.clips_per_shard=50", {"shard"}),
        ("text_encoder.max_length=5", {"encoders", "shard"}),
        ("data.height=16", {"shard"}),
        ("shots.min_seconds=0.1", set()),
        ("shots.adaptive_threshold=4", {"scan"}),
        ("data.max_frames=1000", {"probe", "scan", "shard", "picture"}),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it(
    messy: Path, tmp_path: Path, change: str, redone: set[str]
) -> None:
    out = tmp_path / "out"
    settings = [*BASE, "shots.detector=scenedetect"]
    preprocess_here(messy, out, load_config(None, settings))
    before = times_of(out)
    preprocess_here(messy, out, load_config(None, [*settings, change]), overwrite=True)
    after = times_of(out)
    made = {name for name, time in after.items() if before.get(name) != time}
    assert {Path(name).parts[1] for name in made if name.startswith("work")} == redone
    assert any(name.startswith("shard") for name in made) == ("shard" in redone)
    fresh = tmp_path / "fresh"
    preprocess_here(messy, fresh, load_config(None, [*settings, change]))
    files = {path.name for path in fresh.iterdir() if path.is_file()}
    assert {path.name for path in out.iterdir() if path.is_file()} == files
    assert all((out / name).read_bytes() == (fresh / name).read_bytes() for name in files - {"report.html"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "data.num_frames=100",
            r"data.num_frames dropped 3 of 4 \(shorter than a clip .* limit is 12.5, and the best has 1.25",
        ),
        ("filters.min_side=64", r"filters.min_side dropped 3 of 4 .* limit is 64, and the best has 32"),
        (
            "filters.min_brightness=0.99",
            r"filters.min_brightness dropped 3 of 5 .* limit is 0.99, and the best has 0\.[45]",
        ),
    ],
)
def test_an_empty_result_says_what_would_help(messy: Path, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"no clip is left: {message}"):
        preprocess_here(messy, tmp_path / "out", load_config(None, [*BASE, setting]))
    assert not (tmp_path / "out/dataset.json").exists()


def test_the_plan_counts_what_preprocessing_makes(messy: Path, tmp_path: Path, config: Config) -> None:
    """Where no stage looks at frames, both say the same, and the plan writes nothing but what it probed."""
    results = LocalOutput(tmp_path / "results")
    planned = explain(str(messy), config, encoder_source(config), nullcontext(InProcess()), results, unseen)
    made = preprocess_here(messy, tmp_path / "out", config)
    assert made is not None
    assert planned == made.split("\nnoticed")[0]
    assert {path.name for path in results.path.iterdir()} == {"probe", "encoders"}
    long = load_config(None, [*BASE, "data.num_frames=100"])
    with pytest.raises(UserError, match=r"no clip is left: data.num_frames dropped 3 of 4"):
        explain(str(messy), long, encoder_source(long), nullcontext(InProcess()), results, unseen)


def test_a_video_that_is_shorter_than_a_shot_has_to_be_is_told_so(messy: Path, tmp_path: Path) -> None:
    """By the plan, and where nothing is looked at; the header says how long it is."""
    config = load_config(None, [*BASE, "shots.min_seconds=1"])
    results, reason = LocalOutput(tmp_path / "results"), "no shot is as long as a clip, or as shots.min_seconds"
    planned = explain(str(messy), config, encoder_source(config), nullcontext(InProcess()), results, unseen)
    assert f"{reason}, such as silent.mp4" in planned
    preprocess_here(messy, tmp_path / "out", config)
    row = videos_of(tmp_path / "out")["silent.mp4"]
    assert (row["rule"], row["reason"]) == ("no shot", reason)


def test_clips_of_several_shapes_go_into_shards_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    """Wide and square videos, long and short ones."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, (count, height, width) in {
        "wide": (8, 32, 64), "square": (9, 64, 64), "brief": (5, 64, 64), "tiny": (3, 64, 64)
    }.items():  # fmt: skip
        write_mp4(folder / f"{name}.mp4", rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8), fps=8)
    config = load_config(
        None, [*BASE, "buckets.aspects=['2:1', '1:1']", "buckets.num_frames=[4, 8]", "buckets.sizes=[32]"]
    )
    preprocess_here(folder, tmp_path / "out", config)
    info = DatasetInfo.read(tmp_path / "out")
    by_id = {sample.id: tuple(sample.latents.shape[1:]) for sample in samples_of(tmp_path / "out")}
    assert by_id == {"wide.mp4#0": (8, 20, 44), "square.mp4#0": (8, 32, 32), "brief.mp4#0": (4, 32, 32)}
    assert {shard.bucket for shard in info.shards.values()} == {"8x20x44", "8x32x32", "4x32x32"} == info.buckets.keys()
    assert info.encoded.grid == (8, 32, 44)
    assert videos_of(tmp_path / "out")["tiny.mp4"]["rule"] == "buckets.num_frames"


def test_the_clip_of_data_need_not_fit_where_buckets_take_its_place(tmp_path: Path, rng: np.random.Generator) -> None:
    """An autoencoder that takes even counts, and the odd one of [data], of which no clip is made."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_mp4(folder / "video.mp4", rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), fps=8)
    config = load_config(None, [*BASE, "autoencoder.name=haar", "data.num_frames=7", "buckets.num_frames=[4, 8]"])
    preprocess_here(folder, tmp_path / "out", config)
    info = DatasetInfo.read(tmp_path / "out")
    assert info.encoded.grid == (4, 16, 16)
    assert load_config(None, ["model.patch_size=[2,4,4]"], fixed=info.tables).data.num_frames == 7


def test_scores_filters_and_duplicates_decide_what_is_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    """A moving picture twice, one that stands still, and a black one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    texture = rng.integers(0, 256, (8, 24, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    moving = np.stack([texture[:, 4 * k : 4 * k + 64] for k in range(8)])
    other = np.stack([texture[::-1, 4 * k : 4 * k + 64] for k in range(8)])
    videos = {"a": moving, "b": moving, "c": other, "frozen": moving[:1].repeat(8, 0), "black": moving // 100}
    for name, frames in videos.items():
        write_mp4(folder / f"{name}.mp4", frames, fps=8)
    settings = ["filters.min_change=0.002", "filters.min_brightness=0.1", "filters.min_difference=0.1"]
    preprocess_here(folder, tmp_path / "out", load_config(None, [*BASE, "data.num_frames=8", *settings]))
    rows = {row["video"]: row for row in pq.read_table(tmp_path / "out/clips.parquet").to_pylist()}
    assert {name: row["rule"] for name, row in rows.items()} == {
        "a.mp4": None, "b.mp4": "filters.min_difference", "c.mp4": None, "frozen.mp4": "filters.min_change",
        "black.mp4": "filters.min_brightness",
    }  # fmt: skip
    assert (rows["b.mp4"]["duplicate_of"], rows["b.mp4"]["threshold"]) == ("a.mp4#0", 0.1)
    assert rows["b.mp4"]["difference"] == rows["b.mp4"]["score"] < 0.1
    assert rows["frozen.mp4"]["change"] < 0.002 < rows["a.mp4"]["change"]


def shade(frames: np.ndarray) -> float:
    """A scorer."""
    if frames.mean() > 200:
        raise ValueError("too bright to be judged")
    return float(frames.mean())


def test_own_scorers_see_the_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, level in (("dark", 40), ("light", 160), ("white", 250)):
        write_mp4(folder / f"{name}.mp4", np.full((4, 32, 32, 3), level, np.uint8), fps=8)
    (tmp_path / "my_scorers.py").write_text("import numpy as np\n" + inspect.getsource(shade))
    monkeypatch.syspath_prepend(tmp_path)
    settings = ["filters.scorers={shade = 'my_scorers:shade'}", "filters.min_scores={shade = 100}"]
    preprocess_here(folder, tmp_path / "out", load_config(None, [*BASE, *settings]))
    rows = {row["video"]: row for row in pq.read_table(tmp_path / "out/clips.parquet").to_pylist()}
    assert {name: row["rule"] for name, row in rows.items()} == {
        "dark.mp4": "filters.min_scores.shade", "light.mp4": None, "white.mp4": "filters.scorers"
    }  # fmt: skip
    assert rows["light.mp4"]["shade"] == pytest.approx(160, abs=3)
    assert "too bright to be judged" in rows["white.mp4"]["reason"]


def test_a_scorer_that_was_edited_scores_again(messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has loaded the old one does not give its scores for those of the new one."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # which is known by a file's size and the second
    monkeypatch.syspath_prepend(tmp_path)
    out, module = tmp_path / "out", tmp_path / "edited_scorers.py"
    config = load_config(None, [*BASE, "filters.scorers={level = 'edited_scorers:level'}"])
    for level in (1.0, 2.0):
        module.write_text(f"def level(frames):\n    return {level}\n\n\nb = level\n")
        if level == 2.0:
            more = load_config(
                None, [*BASE, "filters.scorers={level = 'edited_scorers:level', b = 'edited_scorers:b'}"]
            )
            for stale, folder in ((config, out), (more, tmp_path / "more")):
                with pytest.raises(
                    UserError, match=r"scorers.level names .* another in a worker .*: copy it .* start worker"
                ):
                    preprocess_here(messy, folder, stale)
            monkeypatch.delitem(sys.modules, "edited_scorers")
            looks._scorers.cache_clear()
            looks._loaded_code.cache_clear()
        assert preprocess_here(messy, out, config) is not None
        assert pq.read_table(out / "clips.parquet")["level"].to_pylist() == [level] * 3
        assert preprocess_here(messy, out, config) is None
    module.unlink()
    assert preprocess_here(messy, out, config) is None


def test_captions_of_a_server_join_those_that_there_are_and_are_not_asked_for_twice(
    messy: Path, tmp_path: Path, stub: Stub
) -> None:
    """The server says nothing of the clip without a caption, which is then dropped."""
    out = tmp_path / "out"
    stub.in_turn(said("two circles"), said("three circles"), said(""))
    settings = [
        *BASE, "captioner.name=server", "captioner.model=seer", f"captioner.url={stub.url}", "captioner.weight=0.25",
        "captioner.batch_size=1", "captioner.num_frames=2", "data.missing_caption=drop",
    ]  # fmt: skip
    preprocess_here(messy, out, load_config(None, settings))
    own = ("a caption of more than four words", 1.0)
    assert [tuple(zip(sample.captions, sample.weights, strict=True)) for sample in samples_of(out)] == [
        (own, ("two circles", 0.25)), (own, ("three circles", 0.25))
    ]  # fmt: skip
    rows = {row["id"]: row for row in pq.read_table(out / "clips.parquet").to_pylist()}
    assert rows["silent.mp4#0"]["rule"] == "data.missing_caption"
    assert "said nothing" in rows["silent.mp4#0"]["reason"]
    preprocess_here(messy, out, load_config(None, [*settings, "captioner.weight=0.5"]), overwrite=True)
    assert samples_of(out)[0].weights == (1.0, 0.5)
    assert len(stub.questions) == 3
    stub.in_turn(*[said("else")] * 3, *[said("again")] * 3)
    config = load_config(None, [*settings, "captioner.prompt=What else?"])
    preprocess_here(messy, out, config, overwrite=True)
    assert samples_of(out)[0].captions == (own[0], "else")
    assert len(stub.questions) == 6
    shutil.rmtree(out / "work/caption")
    preprocess_here(messy, out, config, overwrite=True)
    assert samples_of(out)[0].captions == (own[0], "again")
    assert len(stub.questions) == 9


def test_a_captioner_whose_files_were_replaced_is_asked_again(
    messy: Path, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's model may be the name of a folder, too. A process that has built the old one builds the new one."""
    built = Mock(side_effect=build_captioner)
    monkeypatch.setattr(looks, "build_captioner", built)
    out, folder = tmp_path / "out", tmp_path / "seer"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    config = load_config(
        None, [*BASE, "captioner.name=server", f"captioner.model={folder}", f"captioner.url={stub.url}"]
    )
    for number in range(2):
        save_file({"weight": torch.full((4,), number)}, folder / "model.safetensors")
        stub.in_turn(*[said(f"answer {number}")] * 3)
        assert preprocess_here(messy, out, config) is not None
        assert [sample.captions[-1] for sample in samples_of(out)] == [f"answer {number}"] * 3
        assert built.call_count == 1 + number
        assert preprocess_here(messy, out, config) is None
    shutil.rmtree(folder)  # what cannot be compared is taken for the same
    assert preprocess_here(messy, out, config) is None
