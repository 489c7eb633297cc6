import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import ClipDataset
from data.dataset_info import DatasetInfo, verify
from data.preprocess import Report, preprocess
from data.shards import ShardReader
from data.sources.captions import CLEANED
from data.video import read_windows, write_mp4
from video_dit.config import Config, load_config
from video_dit.contracts import TextCondition
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.encoders.fingerprint import encoder_fingerprints
from video_dit.errors import UserError
from video_dit.sampling.pipeline import to_uint8


def run(source: Path, out: Path, config: Config, overwrite: bool = False) -> Report | None:
    autoencoder, text_encoder = build_autoencoder(config.autoencoder), build_text_encoder(config.text_encoder)
    fingerprints = encoder_fingerprints(config)
    return preprocess(source, out, config, autoencoder, text_encoder, fingerprints, overwrite, lambda videos, _: videos)


@pytest.fixture
def config() -> Config:
    return load_config(
        None,
        [
            "data.fps=8",
            "data.num_frames=4",
            "data.height=32",
            "data.width=32",
            "data.clips_per_shard=2",
            "text_encoder.max_length=4",
        ],
    )


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


def stored_text(config: Config, captions: list[str]) -> TextCondition:
    """As the text encoder gives it, in the precision of shards."""
    embeds, mask, pooled = build_text_encoder(config.text_encoder).encode(captions)
    return TextCondition(embeds.bfloat16(), mask, pooled.bfloat16())


def test_every_input_is_accounted_for(messy: Path, tmp_path: Path, config: Config) -> None:
    report = run(messy, tmp_path / "out", config)
    assert report is not None
    assert (report.num_inputs, report.num_videos, report.num_clips) == (4, 2, 3)
    assert report.summary() == (
        "videos: 4 in, 2 with clips, 2 without; clips: 3 out\n"
        "without clips:\n"
        "       1  is text, not a video, such as broken.mp4\n"
        "       1  shorter than a clip (4 frames at 8 fps), such as short.mp4\n"
        "of those with clips:\n"
        "       1  with a caption cut to 4 tokens (text encoder: hash)\n"
        "       1  without a caption, and given an empty one"
    )
    lines = [json.loads(line) for line in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert [(line["id"], line["clips"]) for line in lines] == [
        ("broken.mp4", 0), ("good.mp4", 2), ("short.mp4", 0), ("silent.mp4", 1)
    ]  # fmt: skip
    info = DatasetInfo.read(tmp_path / "out")
    found = [(name, shard.clips, shard.bucket) for name, shard in info.shards.items()]
    assert found == [("shard-00000.arrow", 2, "4x32x32"), ("shard-00001.arrow", 1, "4x32x32")]
    assert info.counts == {"videos": 4, "videos_with_clips": 2, "clips": 3}
    assert [(row["reason"].split(" (")[0], row["videos"], row["example"]) for row in info.dropped] == [
        ("is text, not a video", 1, "broken.mp4"), ("shorter than a clip", 1, "short.mp4")
    ]  # fmt: skip
    assert verify(tmp_path / "out") == []


def test_shards_hold_the_decoded_pixels_and_the_encoded_caption(messy: Path, tmp_path: Path, config: Config) -> None:
    run(messy, tmp_path / "out", config)
    first, second = ShardReader(tmp_path / "out/shard-00000.arrow")
    assert (first.id, second.id) == ("good.mp4#0", "good.mp4#1")
    for sample, window in zip((first, second), read_windows(messy / "good.mp4", config.data), strict=True):
        assert np.array_equal(to_uint8(sample.latents[None].float())[0].numpy(), window.frames)
        assert [value.tolist() for value in sample.clip] == [config.data.fps, [*window.source_size], [*window.crop]]
    text = stored_text(config, ["a caption of more than four words"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.text, text, strict=True))


def test_captions_can_be_demanded(messy: Path, tmp_path: Path, config: Config) -> None:
    demanding = config.model_copy(update={"data": config.data.model_copy(update={"missing_caption": "drop"})})
    report = run(messy, tmp_path / "out", demanding)
    assert report is not None
    assert ("silent.mp4", "no caption") in [(dropped.id, dropped.reason) for dropped in report.dropped]


def test_a_shard_holds_all_captions_of_a_clip_with_their_weights(messy: Path, tmp_path: Path, config: Config) -> None:
    rows = [
        {"path": "good.mp4", "original": "red", "synthetic": "a red\x00 circle"},
        {"path": "silent.mp4", "synthetic": "blue"},
    ]
    (messy / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = config.data.model_copy(update={"caption_columns": {"original": 0.5, "synthetic": 1.5}})
    report = run(messy, tmp_path / "out", config.model_copy(update={"data": mixed}))
    assert report is not None
    first, _, last = (
        sample for name in ("00000", "00001") for sample in ShardReader(tmp_path / f"out/shard-{name}.arrow")
    )
    assert (first.captions, first.weights) == (("red", "a red circle"), (0.5, 1.5))
    assert (last.captions, last.weights) == (("blue",), (1.5,))
    text = stored_text(config, ["red", "a red circle"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.text, text, strict=True))
    for u, row in ((0.0, 0), (0.2499, 0), (0.2501, 1), (0.9999, 1), (1 - 2**-53, 1)):
        shown = first.show(u, seed=0)
        assert shown.caption == first.captions[row]
        assert all(torch.equal(ours, theirs[row]) for ours, theirs in zip(shown.text, text, strict=True))
    assert (tmp_path / "out/example_prompts.txt").read_text() == "red\na red circle\nblue\n"
    lines = [json.loads(line) for line in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert [(line["id"], line["notes"]) for line in lines] == [("good.mp4", [CLEANED]), ("silent.mp4", [])]
    assert report.notes[CLEANED] == 1


def test_a_tar_gives_what_its_files_give(messy: Path, tmp_path: Path, config: Config) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for path in sorted(messy.iterdir()):
            tar.add(path, path.name)
    run(messy, tmp_path / "folder", config)
    run(tmp_path / "set.tar", tmp_path / "tar", config)
    for name in ("shard-00000.arrow", "shard-00001.arrow"):
        for ours, theirs in zip(
            ShardReader(tmp_path / "tar" / name), ShardReader(tmp_path / "folder" / name), strict=True
        ):
            assert (ours.id, ours.captions) == (f"set.tar/{theirs.id}", theirs.captions)
            assert torch.equal(ours.latents, theirs.latents)
    lines = [json.loads(line) for line in (tmp_path / "tar/report.jsonl").read_text().splitlines()]
    assert [(line["id"], line["clips"]) for line in lines] == [
        ("set.tar/broken.mp4", 0), ("set.tar/good.mp4", 2), ("set.tar/short.mp4", 0), ("set.tar/silent.mp4", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_odd_file_names_reach_the_shards_and_the_report(
    messy: Path, tmp_path: Path, config: Config, decoder: str
) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    odd = [os.fsdecode(b"caf\xe9.mp4"), "two\nlines.mp4", "it's \U0001f680.mp4"]
    for name in odd:
        shutil.copy(messy / "silent.mp4", messy / name)
    (messy / "bad\x1bname.mp4").touch()
    config = config.model_copy(update={"data": config.data.model_copy(update={"decoder": decoder})})
    report = run(messy, tmp_path / "out", config)
    assert report is not None
    assert "such as bad\\x1bname.mp4" in report.summary()
    report.summary().encode("utf-8")
    ids = {ClipDataset(tmp_path / "out", seed=0)[0, k][0].id for k in range(6)}
    assert {"caf\\udce9.mp4#0", "two\nlines.mp4#0", "it's \U0001f680.mp4#0"} <= ids


def test_a_second_run_does_nothing_and_another_is_refused(messy: Path, tmp_path: Path, config: Config) -> None:
    out = tmp_path / "out"
    run(messy, out, config)
    before = (out / "shard-00000.arrow").stat().st_mtime_ns
    assert run(messy, out, config) is None
    assert (out / "shard-00000.arrow").stat().st_mtime_ns == before

    shutil.copy(messy / "good.mp4", messy / "more.mp4")
    with pytest.raises(UserError, match="made from other videos or settings: give --overwrite"):
        run(messy, out, config)
    report = run(messy, out, config, overwrite=True)
    assert report is not None
    assert report.num_clips == DatasetInfo.read(out).num_clips == 5


def test_an_empty_result_is_an_error_that_says_why(messy: Path, tmp_path: Path, config: Config) -> None:
    long = config.model_copy(update={"data": config.data.model_copy(update={"num_frames": 100})})
    with pytest.raises(
        UserError, match=r"no clip came out of .*\nvideos: 4 in, 0 with clips.*\nwithout clips:\n.*shorter than"
    ):
        run(messy, tmp_path / "out", long)
    assert not (tmp_path / "out/dataset.json").exists()
