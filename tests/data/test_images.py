"""Images as clips of one frame, beside videos."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from preprocessed import preprocess_here

from data.dataset_info import DatasetInfo
from data.decoders import read_frames
from data.probe import probe
from data.shards import ShardReader, StoredSample
from data.video import write_mp4
from video_dit.config import Config, load_config
from video_dit.errors import UserError
from video_dit.frames import to_uint8

KEYS = (
    "data.fps=60", "data.height=32", "data.width=32", "buckets.num_frames=[1, 4]", "text_encoder.max_length=4",
    "filters.min_seconds=0.05", "shots.min_seconds=0.05",
)  # fmt: skip
TURNED = {1: 0, 3: 2, 6: 3, 8: 1}
"""EXIF's orientation, to quarter turns counter-clockwise that show it upright."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, and an image of each kind with a caption; smooth ones, which JPEG keeps."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    write_mp4(folder / "video.mp4", rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8), fps=60)
    corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    picture = corners.resize((128, 96), Image.Resampling.BILINEAR)
    for suffix in ("png", "bmp", "webp", "jpg"):
        picture.save(folder / f"{suffix}%03d.{suffix}", quality=95)
        (folder / f"{suffix}%03d.txt").write_text(f"a {suffix}")
    for orientation in TURNED:
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(folder / f"turned-{orientation}.jpg", quality=95, exif=exif)
    return folder


def config_with(*keys: str) -> Config:
    return load_config(None, [*KEYS, *keys])


def samples_of(out: Path) -> dict[str, StoredSample]:
    return {sample.id: sample for name in DatasetInfo.read(out).shards for sample in ShardReader(out / name)}


def pixels_of(sample: StoredSample) -> np.ndarray:
    (frame,) = to_uint8(sample.latents[None].float())[0].numpy()
    return frame


@pytest.mark.parametrize("detector", ["none", "scenedetect"])
def test_images_are_clips_of_one_frame(folder: Path, tmp_path: Path, detector: str) -> None:
    """Upright, as Pillow reads them; limits to how long videos last do not count for them."""
    preprocess_here(folder, tmp_path, config_with("data.images=true", f"shots.detector={detector}"))
    samples = samples_of(tmp_path)
    images = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".bmp", ".webp", ".jpg"))
    assert samples.keys() >= {f"{path.name}#0" for path in images}
    assert samples["video.mp4#0"].latents.shape[1] == 4
    for path in images:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        square = upright.crop((left, top, left + side, top + side)).resize((32, 32), Image.Resampling.BOX)
        frame = pixels_of(samples[f"{path.name}#0"])
        assert np.abs(frame.astype(int) - np.asarray(square).astype(int)).mean() < 4, path.name
    assert samples["png%03d.png#0"].captions == ("a png",)


def test_scorers_see_images_at_any_rate(folder: Path, tmp_path: Path) -> None:
    keys = config_with("data.images=true", "data.fps=4", "buckets.num_frames=[1]", "filters.scorers.size='numpy:size'")
    preprocess_here(folder, tmp_path, keys)
    scores = {row["id"]: row["size"] for row in pq.read_table(tmp_path / "clips.parquet").to_pylist()}
    assert scores["png%03d.png#0"] == 8 * 448 * 336 * 3


@pytest.mark.parametrize(("orientation", "turns"), TURNED.items())
def test_the_orientation_of_exif_is_known(folder: Path, orientation: int, turns: int) -> None:
    assert probe(folder / f"turned-{orientation}.jpg", config_with().data.limits).quarter_turns == turns


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "palette.png", "rgba.gif"])
def test_what_is_transparent_has_white_behind_it(tmp_path: Path, name: str) -> None:
    """As Pillow composes it, before it is scaled: columns in turns, so that hidden colours lie beside others."""
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[:, ::2] = 200, 30, 60, 255
    pixels[:16, 1::2] = 0, 255, 0, 0
    picture = Image.fromarray(pixels)
    if name.startswith("palette"):
        picture = picture.quantize(4)
    picture.save(tmp_path / name, lossless=True)
    with Image.open(tmp_path / name) as saved:
        picture = saved.convert("RGBA")
    assert picture.getextrema()[3] == (0, 255)
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    info = probe(tmp_path / name, config_with().data.limits)
    for size in ((32, 32), (16, 16)):
        (seen,) = read_frames(tmp_path / name, info, [0.0], size, "auto", config_with().data.limits)
        scaled = np.asarray(expected.resize(size, Image.Resampling.BOX)).astype(int)
        assert np.abs(seen.pixels - scaled).max() <= 2


def test_without_the_key_they_are_left_alone(folder: Path, tmp_path: Path) -> None:
    preprocess_here(folder, tmp_path, config_with())
    assert samples_of(tmp_path).keys() == {"video.mp4#0", "video.mp4#1"}


def test_a_manifest_s_images_are_taken_and_a_tar_s_with_the_key(folder: Path, tmp_path: Path) -> None:
    (folder / "listed.jsonl").write_text('{"path": "png%03d.png", "caption": "listed"}\n')
    preprocess_here(folder / "listed.jsonl", tmp_path / "listed", config_with())
    assert [sample.captions for sample in samples_of(tmp_path / "listed").values()] == [("listed",)]
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for suffix in ("png", "txt"):
            tar.add(folder / f"png%03d.{suffix}", f"0001.{suffix}")
    preprocess_here(tmp_path / "set.tar", tmp_path / "tar", config_with("data.images=true"))
    assert [sample.captions for sample in samples_of(tmp_path / "tar").values()] == [("a png",)]


def test_what_to_do_is_said(folder: Path, tmp_path: Path) -> None:
    """Where there are images alone without the key, and where no bucket has one frame."""
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.png").write_bytes((folder / "png%03d.png").read_bytes())
    with pytest.raises(UserError, match=r"data\.images=true also \.bmp, \.jpeg"):
        preprocess_here(alone, tmp_path / "out", config_with())
    keys = config_with("data.images=true", "buckets.num_frames=[4]")
    preprocess_here(folder, tmp_path / "mixed", keys)
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "mixed" / "videos.parquet").to_pylist()}
    assert (rows["png%03d.png"]["rule"], rows["png%03d.png"]["reason"]) == (
        "buckets.num_frames", "shorter than a clip (4 frames at 60 fps)",
    )  # fmt: skip
