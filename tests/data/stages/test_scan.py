"""One pass over files of all kinds."""

from pathlib import Path

import numpy as np
import pytest
from video_files import B_FRAMES, FILES, numbered, with_index_in_front, write_video

from data.probe import probe
from data.stages.scan import Scan, scan
from video_dit.config import DataConfig, ShotsConfig

LIMITS = DataConfig().limits
ONE_SHOT = ShotsConfig(detector="none")


def same(one: Scan, other: Scan) -> bool:
    return (
        one.problem == other.problem
        and np.array_equal(one.seconds, other.seconds)
        and np.array_equal(one.shots, other.shots)
        and one.features.keys() == other.features.keys()
        and all(
            np.array_equal(values, other.features[name], equal_nan=values.dtype.kind == "f")
            and values.dtype == other.features[name].dtype
            for name, values in one.features.items()
        )
    )


@pytest.mark.parametrize("name", ["b_frames", "one_frame", "turned_90", "variable_rate", "gif"])
def test_a_scan_is_stored_and_repeated_to_the_byte(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    info = probe(path, LIMITS)
    first, again = (scan(path, info, ShotsConfig(), LIMITS) for _ in range(2))
    assert first.to_bytes() == again.to_bytes()
    stored = Scan.from_bytes(first.to_bytes())
    assert same(stored, first)
    assert stored.to_bytes() == first.to_bytes()


def test_a_scan_is_small_whatever_the_size_of_the_pictures(tmp_path: Path) -> None:
    sizes = [(48, 64), (480, 640)]
    stored = []
    for size in sizes:
        path = write_video(tmp_path / "plain.mp4", size=size, options=B_FRAMES)
        stored.append(len(scan(path, probe(path, LIMITS), ONE_SHOT, LIMITS).to_bytes()))
    assert stored[0] == stored[1] < 5000


def test_what_is_measured_does_not_depend_on_the_size(tmp_path: Path) -> None:
    found = []
    for size in ((96, 128), (480, 640)):
        path = write_video(tmp_path / "plain.mp4", size=size, options={**B_FRAMES, "crf": "5"})
        found.append(scan(path, probe(path, LIMITS), ONE_SHOT, LIMITS).features)
    for name in ("brightness", "change"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=0.01)


def test_a_damaged_file_keeps_what_was_decoded(tmp_path: Path) -> None:
    path = with_index_in_front(write_video(tmp_path / "whole.mp4", options=B_FRAMES))
    whole = scan(path, probe(path, LIMITS), ONE_SHOT, LIMITS)
    assert whole.problem is None
    assert whole.shots.ravel() == pytest.approx([0, 2])
    content = path.read_bytes()
    begin = content.index(b"mdat")
    path.write_bytes(content[: begin + round((len(content) - begin) * 0.7)])
    cut = scan(path, probe(path, LIMITS), ONE_SHOT, LIMITS)
    assert cut.problem is not None
    assert same(Scan.from_bytes(cut.to_bytes()), cut)
    good = len(cut.seconds)
    assert 5 < good < len(whole.seconds)
    assert np.array_equal(cut.seconds, whole.seconds[:good])
    assert np.array_equal(cut.features["brightness"], whole.features["brightness"][:good])
    assert cut.seconds[-1] < cut.shots[-1, 1] < 2


def test_a_file_beyond_the_limits_from_its_first_frame_gives_no_shot(tmp_path: Path) -> None:
    path = FILES["b_frames"](tmp_path)
    found = scan(path, probe(path, LIMITS), ShotsConfig(), LIMITS._replace(pixels=99))
    assert "data.max_pixels" in (found.problem or "")
    assert found.shots.shape == (0, 2)
    assert same(Scan.from_bytes(found.to_bytes()), found)


def test_damage_in_the_middle_of_a_real_file_is_said(assets: Path) -> None:
    path = assets / "clips/corrupt/corrupted.mp4"
    found = scan(path, probe(path, LIMITS), ShotsConfig(), LIMITS)
    assert "Invalid data" in (found.problem or "")
    assert 2 < found.shots[-1, 1] <= 2.9


@pytest.mark.parametrize("size", [(16, 1024), (1024, 16)])
def test_extreme_shapes_are_measured(tmp_path: Path, size: tuple[int, int]) -> None:
    def picture(number: int, height: int, width: int) -> np.ndarray:
        return np.resize(numbered(number), (height, width, 3))

    path = write_video(tmp_path / "long.mp4", ticks=range(0, 400, 50), size=size, picture=picture)
    found = scan(path, probe(path, LIMITS), ShotsConfig(), LIMITS)
    assert np.isfinite(found.features["sharpness"]).all()
