import pytest
import torch
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.motion import motion_magnitude, temporal_flicker


def of_levels(*levels: int) -> Tensor:
    """[1, F, 4, 4, 3], each frame of one level."""
    return torch.tensor(levels, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(1, len(levels), 4, 4, 3)


def test_still_clips_neither_move_nor_flicker() -> None:
    clips = torch.cat([of_levels(7, 7, 7, 7), of_levels(255, 255, 255, 255)])
    assert motion_magnitude(clips).tolist() == temporal_flicker(clips).tolist() == [0, 0]


def test_a_ramp_moves_and_does_not_flicker() -> None:
    clip = of_levels(0, 51, 102, 153, 204)
    assert motion_magnitude(clip).item() == pytest.approx(0.2)
    assert temporal_flicker(clip).item() == pytest.approx(0, abs=1e-15)


def test_black_and_white_in_turn_is_the_most_of_both() -> None:
    clip = of_levels(0, 255, 0, 255)
    assert motion_magnitude(clip).item() == temporal_flicker(clip).item() == 1


def test_one_flash_counts_by_the_neighbours_that_see_it() -> None:
    """Frame 2 is off by 1, frames 1 and 3 by a half each, of three frames with two neighbours."""
    clip = of_levels(0, 0, 255, 0, 0)
    assert motion_magnitude(clip).item() == pytest.approx(2 / 4)
    assert temporal_flicker(clip).item() == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_a_moving_square_counts_by_the_area_that_it_leaves_and_enters() -> None:
    clip = torch.zeros(1, 4, 10, 10, 3, dtype=torch.uint8)
    for frame in range(4):
        clip[0, frame, 2:6, frame : frame + 4] = 255
    assert motion_magnitude(clip).item() == pytest.approx(2 * 4 / 100)


def test_wrong_clips_are_refused() -> None:
    with pytest.raises(UserError, match="1 frames, and this measure needs 2"):
        motion_magnitude(of_levels(1))
    with pytest.raises(UserError, match="2 frames, and this measure needs 3"):
        temporal_flicker(of_levels(1, 2))
    with pytest.raises(UserError, match="float32"):
        motion_magnitude(of_levels(1, 2).float())
    with pytest.raises(UserError, match=r"\[1, 3, 2, 4, 4\]"):
        motion_magnitude(of_levels(1, 2).movedim(-1, 1))
