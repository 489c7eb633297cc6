import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_tables import made_tables, made_videos, noise

from data.report.examples import BEGINNING, BOX, MAX_BYTES, MAX_FRAMES, choose_examples, thumbnails
from data.report.tables import VIDEO_SCHEMA, build_table, clip_schema


def picture_of(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))


def test_the_choice_is_a_function_of_seed_and_ids(rng: np.random.Generator) -> None:
    videos, clips = made_tables(made_videos(100, rng), {}, rng=rng)
    chosen = choose_examples(videos, clips, seed=0, per_bucket=4, per_rule=2)
    other = tuple(table.take(rng.permutation(len(table))) for table in (videos, clips))
    assert choose_examples(*other, seed=0, per_bucket=4, per_rule=2) == chosen
    assert choose_examples(videos, clips, seed=1, per_bucket=4, per_rule=2) != chosen

    rows = {row["id"]: row for row in videos.to_pylist() + clips.to_pylist()}
    kinds = [row["rule"] or (row["frames"], row["height"], row["width"]) for row in (rows[each.id] for each in chosen)]
    for kind in set(kinds):
        assert kinds.count(kind) <= (2 if isinstance(kind, str) else 4)
    buckets = {(row["frames"], row["height"], row["width"]) for row in clips.to_pylist() if row["rule"] is None}
    assert buckets <= set(kinds)
    assert "unreadable" not in kinds  # there is nothing to be decoded
    for example in chosen:
        row = rows[example.id]
        if "video" in row:
            assert example[1:] == (row["video"], row["start"], row["seconds"])
        else:
            assert example[1:] == (row["id"], 0.0, min(BEGINNING, row["seconds"]))


def test_more_rows_of_other_videos_do_not_change_who_comes_first() -> None:
    rows = [{"id": f"{v}#{k}", "video": str(v), "frames": 8, "height": 8, "width": 8, "start": 0.0, "seconds": 1.0}
            for v in range(5) for k in range(20)]  # fmt: skip
    nothing = build_table([], VIDEO_SCHEMA)
    chosen = choose_examples(nothing, build_table(rows, clip_schema([])), seed=0, per_bucket=5, per_rule=1)
    assert {example.video for example in chosen} == {"0", "1", "2", "3", "4"}
    seven = choose_examples(nothing, build_table(rows, clip_schema([])), seed=0, per_bucket=7, per_rule=1)
    assert set(chosen) < set(seven)


def test_every_clip_is_chosen_as_often_as_any_other() -> None:
    rows = [{"id": str(k), "video": str(k), "frames": 8, "height": 8, "width": 8} for k in range(10)]
    clips, nothing = build_table(rows, clip_schema([])), build_table([], VIDEO_SCHEMA)
    counts = np.zeros(10)
    for seed in range(1000):
        for example in choose_examples(nothing, clips, seed, per_bucket=3, per_rule=0):
            counts[int(example.id)] += 1
    assert counts.sum() == 3000
    assert abs(counts - 300).max() < 5 * np.sqrt(300 * 0.7)


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (16, 16), (50, 2000), (1, 1)])
def test_a_strip_has_first_middle_and_last_frame_and_fits_its_box(size: tuple[int, int]) -> None:
    frames = [np.full((*size, 3), level, dtype=np.uint8) for level in (0, 40, 120, 200, 250)]
    strip = thumbnails({"a": frames})["a"]
    assert strip.height <= BOX[0] + 1
    assert strip.width <= MAX_FRAMES * (BOX[1] + 3) * 2  # a gap is at least one pixel of the file
    picture = picture_of(strip.url)
    pixels = np.asarray(picture.convert("L")).astype(int)
    middle = pixels[pixels.shape[0] // 2]
    assert [middle[round((len(middle) - 1) * at)] for at in (0, 0.5, 1)] == pytest.approx([0, 120, 250], abs=6)
    assert strip.height == pytest.approx(strip.width * picture.height / picture.width, abs=1)


def test_hundreds_of_pictures_stay_small(rng: np.random.Generator) -> None:
    pictures = noise([str(k) for k in range(400)], rng)
    strips = thumbnails(pictures)
    assert len(strips) == 400
    assert sum(len(strip.url) for strip in strips.values()) <= MAX_BYTES
    few = thumbnails({"0": pictures["0"]})
    assert picture_of(few["0"].url).width > picture_of(strips["0"].url).width
    assert (few["0"].width, few["0"].height) == pytest.approx((strips["0"].width, strips["0"].height), abs=4)


def test_an_id_without_frames_has_no_strip() -> None:
    assert thumbnails({"a": []}) == {}
    assert thumbnails({}) == {}
