"""Each recipe in configs/preprocess reads a small source that looks like the real one."""

from pathlib import Path

import pytest

from data.sources.discovery import discover
from video_dit.config import load_config

RECIPES = Path(__file__).parents[2] / "configs/preprocess"

SOURCES = {
    "shapes": ("", {"manifest.jsonl": '{"path": "train/a.mp4", "caption": "a red circle", "split": "train"}'}),
    "folder": ("", {"train/a.txt": "a dog"}),
    "openvid": (
        "OpenVid-1M.csv",
        {
            "OpenVid-1M.csv": "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,"
            'frame,fps,seconds\nceleb_0.mp4,"In the video, a man talks.",5.08,1.5,0.98,static,122,29.97,4.07\n'
        },
    ),
    "panda70m": (
        "panda.csv",
        {
            "panda.csv": "videoID,url,timestamp,caption,matching_score,desirable_filtering,shot_boundary_detection\n"
            "--A-b,https://www.youtube.com/watch?v=--A-b,\"[['0:00:02.2', '0:00:05.9'], ['0:00:07.0', '0:00:09.1']]\","
            "\"['A man drives.', \"\"There's a dog, too.\"\"]\",\"[0.43, 0.51]\",\"['desirable', 'desirable']\","
            "\"[[['0:00:02.2', '0:00:05.9']], [['0:00:07.0', '0:00:09.1']]]\"\n"
        },
    ),
    "webvid": (
        "results.csv",
        {
            "results.csv": "videoid,contentUrl,duration,page_dir,name\n"
            "1066674784,https://example.com/1.mp4,PT00H00M10S,006001_006050,Aerial shot of a lake\n"
        },
    ),
    "emoji": (
        "",
        {
            "manifest.jsonl": '{"path": "clips/1f30a.mp4", "caption": "an emoji of wave", '
            '"caption_with_article": "an emoji of a wave", "split": "train"}'
        },
    ),
}  # fmt: skip
FOUND = {
    "shapes": {"train/a.mp4": ["a red circle"]},
    "folder": {"train/a.mp4": ["a dog"]},
    "openvid": {"video_folder/celeb_0.mp4": ["In the video, a man talks."]},
    "panda70m": {"clips/--A-b_0.mp4": ["A man drives."], "clips/--A-b_1.mp4": ["There's a dog, too."]},
    "webvid": {"videos/006001_006050/1066674784.mp4": ["Aerial shot of a lake"]},
    "emoji": {"clips/1f30a.mp4": ["an emoji of wave", "an emoji of a wave"]},
}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_reads_the_columns_of_its_data_set(path: Path, tmp_path: Path) -> None:
    source, files = SOURCES[path.stem]
    for name in FOUND[path.stem]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    videos, dropped = discover(tmp_path / source, load_config(path).data)
    assert dropped == []
    assert {video.id: [caption.text for caption in video.captions] for video in videos} == FOUND[path.stem]


def test_every_recipe_fits_its_autoencoder() -> None:
    for path in RECIPES.glob("*.toml"):
        load_config(path, ["model.patch_size=[1,1,1]"])
