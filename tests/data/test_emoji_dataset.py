import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data.emoji_dataset import SKIN_TONES, Emoji, fetch, make_clips, read_emoji, to_frames
from data.sources.discovery import discover
from video_dit.config import DataConfig
from video_dit.errors import UserError

FRAME_MS = 42  # as the real ones have: two of theirs are nearly one of ours


def picture(levels: list[int], format: str) -> bytes:
    """Frame k is a square of the level k amid nothing, above a shadow that half shows."""
    frames = []
    for level in levels:
        frame = Image.new("RGBA", (256, 256))
        frame.paste((level, 0, 0, 255), (64, 64, 192, 192))
        frame.paste((0, 0, 0, 128), (0, 224, 256, 256))
        frames.append(frame)
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(file, format, save_all=True, append_images=frames[1:], duration=FRAME_MS, **options)
    return file.getvalue()


def write_package(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def names() -> bytes:
    tones = [{"hexcode": f"1F44B-1F3F{'BCDEF'[k]}", "tone": k + 1} for k in range(5)]
    pair = {"hexcode": "1F44B-1F3FB-1F3FC", "tone": [1, 2]}
    return json.dumps(
        [
            {"label": "regional indicator A", "hexcode": "1F1E6"},
            {"label": "waving hand", "hexcode": "1F44B", "group": 1, "tags": ["hi"], "skins": [*tones, pair]},
            {"label": "sun", "hexcode": "2600-FE0F", "group": 0},
            {"label": "camel", "hexcode": "1F42A", "group": 0},
        ]
    ).encode()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder where all packages are already: an animation of each format, a still, and one that nobody names."""
    packages = tmp_path / "packages"
    groups = json.dumps({"groups": [{"order": 0, "message": "nature"}, {"order": 1, "message": "people"}]}).encode()
    write_package(packages / "emojibase-data-17.0.0.tgz", {"en/data.json": names(), "en/messages.json": groups})
    moving = [20, 60, 100, 140, 180, 220]
    contents = [
        {
            "README.md": b"",
            "assets/2600.webp": picture([50], "WEBP"),
            "assets/1f44b-1f3fd.webp": picture(moving, "WEBP"),
        },
        {"assets/1f44b.png": picture(moving, "PNG")},
        {"assets/ffff.webp": picture(moving, "WEBP")},
        {"assets/1f42a.webp": picture(moving, "WEBP")},
    ]
    for number, members in enumerate(contents, start=1):
        write_package(packages / f"lobehub-fluent-emoji-anim-{number}-1.0.0.tgz", members)
    return tmp_path


def silent(pictures: list[str], package: str) -> list[str]:
    return pictures


def test_clips_come_with_captions_and_a_manifest_that_preprocessing_reads(out: Path) -> None:
    made = make_clips(out, None, silent)
    rows = [json.loads(line) for line in made.manifest.read_text().splitlines()]
    assert [(row["path"], row["caption"], row["frames"]) for row in rows] == [
        ("clips/1f44b-1f3fd.mp4", "an animated emoji of waving hand with medium skin tone", 3),
        ("clips/1f44b.mp4", "an animated emoji of waving hand", 3),
        ("clips/1f42a.mp4", "an animated emoji of camel", 3),
    ]
    assert rows[0]["caption_with_article"] == "an animated emoji of a waving hand with medium skin tone"
    assert rows[2]["caption_with_article"] == "an animated emoji of a camel"
    assert (sum(made.splits.values()), made.num_still, made.num_unnamed) == (3, 1, 1)
    held_out = {row["path"] for row in rows if row["split"] == "held_out"}
    videos, dropped = discover(out, DataConfig())
    assert {video.id for video in videos} == {row["path"] for row in rows} - held_out
    assert {entry.id for entry in dropped} == held_out


def test_the_article_is_as_it_is_said() -> None:
    names = (
        ("ant", "an"),
        ("unicorn", "a"),
        ("ewe", "a"),
        ("one-thirty", "a"),
        ("hourglass done", "an"),
        ("house", "a"),
    )
    for name, article in names:
        emoji = Emoji("1f40e", "1f40e", name, None, "animals", ())
        assert emoji.caption_with_article == f"an animated emoji of {article} {name}"


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_a_clip_shows_the_picture_on_white_at_its_rate(format: str) -> None:
    """Frames of ours at 0, 83.3 and 166.7 ms lie in frames 0, 1 and 3 of theirs, which begin at 0, 42, 84, 126 ms."""
    frames = to_frames(Image.open(io.BytesIO(picture([20, 60, 100, 140, 180, 220], format))))
    assert frames.shape == (3, 128, 128, 3)
    assert frames[:, 64, 64, 0].tolist() == [20, 60, 140]
    assert (frames[:, 64, 64, 1:] == 0).all()
    assert (frames[:, :28] == 255).all()
    assert (frames[:, 118:] == 127).all()


def test_what_is_there_is_not_made_again_and_a_limit_fetches_no_more(out: Path) -> None:
    make_clips(out, None, silent)
    before = {path: path.stat().st_mtime_ns for path in out.glob("clips/*")}
    manifest = (out / "manifest.jsonl").read_bytes()
    (out / "clips/1f44b.mp4").unlink()
    made = make_clips(out, None, silent)
    assert made.manifest.read_bytes() == manifest
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == ["1f44b.mp4"]
    for number in (2, 3, 4):
        (out / f"packages/lobehub-fluent-emoji-anim-{number}-1.0.0.tgz").unlink()
    assert sum(make_clips(out, 1, silent).splits.values()) == 1


def test_a_clip_is_h264_of_the_size_and_rate(out: Path) -> None:
    make_clips(out, 1, silent)
    with av.open(str(out / "clips/1f44b-1f3fd.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.average_rate) == ("h264", 128, 128, 12)
        first = next(container.decode(stream)).to_ndarray(format="rgb24")
    assert np.abs(first[64, 64].astype(int) - [20, 0, 0]).max() < 8


def test_names_leave_out_what_no_clip_shows(out: Path) -> None:
    emoji = read_emoji(out / "packages/emojibase-data-17.0.0.tgz")
    assert set(emoji) == {"1f44b", *(f"1f44b-1f3f{c}" for c in "bcdef"), "2600", "1f42a"}
    assert [emoji[f"1f44b-1f3f{c}"].skin_tone for c in "bcdef"] == list(SKIN_TONES)
    assert emoji["1f44b-1f3ff"] == Emoji("1f44b-1f3ff", "1f44b", "waving hand", "dark", "people", ("hi",))


def test_pairs_are_held_out_whose_concept_and_skin_tone_are_seen() -> None:
    concepts = [f"{number:x}" for number in range(0x1F440, 0x1F440 + 600)]
    held_out = Counter[str | None]()
    for concept in concepts:
        assert Emoji(concept, concept, "", None, "", ()).split == "train"
        tones = [tone for tone in SKIN_TONES if Emoji("", concept, "", tone, "", ()).split == "held_out"]
        assert len(tones) <= 1
        held_out.update(tones)
    assert 150 < held_out.total() < 250
    assert min(held_out[tone] for tone in SKIN_TONES) > 15


def fake_npm(folder: Path, script: str) -> None:
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_packages_are_fetched_once_through_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, f'echo "$@" >> {tmp_path}/calls; echo archive > "$5/scope-thing-1.2.3.tgz"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    for _ in range(2):
        assert fetch("@scope/thing@1.2.3", tmp_path / "packages").read_text() == "archive\n"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"pack @scope/thing@1.2.3 --silent --pack-destination {tmp_path}/packages/unfinished"]


def test_without_npm_or_offline_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is not installed.*install Node.js, or put thing-1.tgz.*npm pack thing@1"):
        fetch("thing@1", tmp_path / "packages")
    fake_npm(tmp_path, 'echo "npm error code ENOTFOUND" >&2; exit 1')
    with pytest.raises(UserError, match=r"npm could not fetch thing@1 \(npm error code ENOTFOUND\): go online"):
        fetch("thing@1", tmp_path / "packages")
    assert not (tmp_path / "packages/thing-1.tgz").exists()
