import re
from types import SimpleNamespace

import pytest
from conftest import TINY

from video_dit.config import Config, load_config
from video_dit.errors import UserError
from video_dit.sampling.extrapolation import extrapolations
from video_dit.sampling.plan import Window, givable, plan_clip
from video_dit.shapes import Grid

PIXELS = SimpleNamespace(stride=(1, 1, 1), causal=False, frame_step=1)
CAUSAL = SimpleNamespace(stride=(4, 8, 8), causal=True, frame_step=4)


def config(*keys: str) -> Config:
    return load_config(None, (*TINY, "model.patch_size=[1,8,8]", "model.given_frames=true", *keys))


def test_windows_cover_the_clip_and_overlap_as_asked() -> None:
    for num_frames in range(9, 40):
        plan = plan_clip(config(), PIXELS, num_frames=num_frames, window=8, overlap=3)
        starts = [window.start for window in plan.windows]
        assert starts == list(range(0, starts[-1] + 1, 5))
        assert starts[-1] + 3 < num_frames <= starts[-1] + 8
        assert [window.overlap for window in plan.windows] == [0] + [3] * (len(starts) - 1)


def test_a_continuation_begins_at_the_end_of_the_video() -> None:
    plan = plan_clip(config(), PIXELS, video_frames=11)
    assert plan.windows == (Window(9, 2),)  # half of a window of 4
    assert plan.num_frames == 13
    assert plan_clip(config(), PIXELS, video_frames=11, num_frames=15).windows == (Window(9, 2), Window(11, 2))
    assert plan_clip(config(), PIXELS, video_frames=1).windows == (Window(0, 1),)


def test_causal_autoencoders_are_given_4k_plus_1_frames() -> None:
    sizes = ("data.num_frames=17", "data.height=64", "data.width=64")
    sizes += ("autoencoder.name=diffusers", "autoencoder.model=x")
    causal = config(*sizes)
    window = Grid(17, 64, 64)
    assert givable(causal, CAUSAL, window) == [1, 5, 9, 13]
    two = config(*sizes, "model.given_frames=false", "diffusion.per_frame_noise=true", "model.patch_size=[2,8,8]")
    assert givable(two, CAUSAL, window) == [5, 13]
    plan = plan_clip(causal, CAUSAL, num_frames=30, window=17)
    assert plan.windows == (Window(0, 0), Window(12, 5), Window(24, 5))
    assert plan_clip(causal, CAUSAL, image=True, last_image=True)[-3:-1] == (1, 4)


def test_a_size_that_does_not_fit_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"width is 20.*use 16 or 24"):
        plan_clip(config(), PIXELS, width=20)


@pytest.mark.parametrize(
    ("keys", "grid", "fps", "message"),
    [
        ((), Grid(4, 2, 2), 4.0, None),
        ((), Grid(1, 1, 1), 4.0, None),
        ((), Grid(5, 2, 2), 4.0, r"is longer than .*rotary angles extrapolate.*sincos places extrapolate"),
        ((), Grid(4, 2, 3), 4.0, r"is larger than .*rotary angles extrapolate.*sincos places extrapolate"),
        (("model.rotary_scaling=ntk",), Grid(5, 3, 2), 4.0, "is longer and larger than .*wavelengths are stretched"),
        (("model.rotary_scaling=interpolation",), Grid(5, 2, 2), 4.0, "places are squeezed"),
        ((), Grid(4, 2, 2), 8.0, "things move 2 times as fast"),
        (("model.conditions=['fps']",), Grid(4, 2, 2), 8.0, None),
        (("model.reference_fps=4.0",), Grid(8, 2, 2), 8.0, None),
        (("model.reference_fps=4.0",), Grid(4, 2, 2), 2.0, "is longer"),
    ],
)
def test_a_user_hears_when_the_model_extrapolates(
    keys: tuple[str, ...], grid: Grid, fps: float, message: str | None
) -> None:
    told = extrapolations(config(*keys), Grid(4, 2, 2), grid, fps)
    assert len(told) == (message is not None)
    if message is not None:
        assert re.search(message, told[0])
