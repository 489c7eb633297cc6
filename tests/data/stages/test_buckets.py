import pytest

from data.stages.buckets import choose_bucket, make_buckets
from data.stages.filters import Drop
from video_dit.config import Config, load_config
from video_dit.encoders import build_autoencoder
from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid, token_grid

BASE = ("data.fps=8", "data.num_frames=8", "data.height=32", "data.width=32", "model.patch_size=[2,4,4]")


def buckets(*overrides: str) -> tuple[Config, list[Grid]]:
    config = load_config(None, [*BASE, *overrides])
    return config, make_buckets(config, build_autoencoder(config.autoencoder))


def test_without_a_table_there_is_the_clip_of_data() -> None:
    assert buckets()[1] == [Grid(8, 32, 32)]


def test_all_combinations_within_the_budget_in_whole_tokens_of_about_the_size_and_aspect() -> None:
    sizes, counts, aspects = [64, 128], [8, 16], ["16:9", "1:1", "9:16"]
    config, grids = buckets(
        f"buckets.sizes={sizes}",
        f"buckets.num_frames={counts}",
        f"buckets.aspects={aspects}",
        "buckets.max_tokens=4096",
    )
    autoencoder = build_autoencoder(config.autoencoder)
    tokens = [token_grid(latent_grid(grid, autoencoder), config.model.patch_size).size for grid in grids]
    assert max(tokens) <= 4096
    assert {grid.frames for grid in grids if grid.height * grid.width > 5000} == {8}  # others have 8,192
    assert len(grids) == 2 * 3 + 3
    for grid in grids:
        size = min(sizes, key=lambda size: abs(size**2 - grid.height * grid.width))
        assert abs(grid.height * grid.width / size**2 - 1) < 0.15
        assert min(abs(grid.width / grid.height / ratio - 1) for ratio in (16 / 9, 1, 9 / 16)) < 0.15


def test_a_budget_that_is_too_small_says_what_the_least_is() -> None:
    with pytest.raises(UserError, match=r"buckets.max_tokens is 10, and the smallest clip, 8x32x32, has 256 tokens"):
        buckets("buckets.max_tokens=10")


def test_frames_that_an_autoencoder_does_not_take_are_refused() -> None:
    with pytest.raises(UserError, match="frames is 7"):
        buckets("autoencoder.name=haar", "buckets.num_frames=[7]")


GRIDS = [Grid(f, h, w) for f in (8, 16) for h, w in ((32, 32), (64, 64), (32, 64))]


@pytest.mark.parametrize(
    ("size", "seconds", "expected"),
    [
        ((64, 64), 1.0, (8, 64, 64)),
        ((64, 64), 2.0, (16, 64, 64)),
        ((64, 64), 1.999, (8, 64, 64)),
        ((64, 64), 2 - 1e-9, (16, 64, 64)),  # rounding
        ((50, 50), 1.0, (8, 32, 32)),  # 64 would scale it up
        ((20, 20), 1.0, (8, 32, 32)),  # the smallest, where all scale it up
        ((720, 1280), 5.0, (16, 32, 64)),
        ((1000, 900), 5.0, (16, 64, 64)),
    ],
)
def test_the_nearest_aspect_then_the_most_frames_then_the_size_that_fits(size, seconds, expected) -> None:
    config = load_config(None, BASE)
    assert choose_bucket(GRIDS, size, seconds, config) == expected


def test_what_fits_nowhere_says_by_which_rule() -> None:
    config = load_config(None, BASE)
    too_short = choose_bucket(GRIDS, (64, 64), 0.9, config)
    assert too_short == Drop("data.num_frames", "shorter than a clip (8 frames at 8 fps)", 0.9, 1.0)
    strict = load_config(None, [*BASE, "buckets.upscale=false"])
    too_small = choose_bucket(GRIDS, (31, 500), 1.0, strict)
    assert isinstance(too_small, Drop)
    assert (too_small.rule, too_small.score, too_small.threshold) == ("buckets.upscale", 31, 32)
    assert choose_bucket(GRIDS, (40, 40), 1.0, strict) == (8, 32, 32)
