from types import SimpleNamespace

import pytest

from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid, pixel_grid, split_head, token_grid

HAAR = SimpleNamespace(stride=(2, 2, 2), causal=False, frame_step=2)
WAN = SimpleNamespace(stride=(4, 8, 8), causal=True, frame_step=4)
COGVIDEOX = SimpleNamespace(stride=(4, 8, 8), causal=True, frame_step=8)


def test_pixels_to_latents_to_tokens() -> None:
    latents = latent_grid(Grid(16, 64, 96), HAAR)
    assert latents == (8, 32, 48)
    tokens = token_grid(latents, (4, 8, 8))
    assert tokens == (2, 4, 6)
    assert tokens.size == 48


def test_what_does_not_fit_is_named_with_what_would() -> None:
    with pytest.raises(UserError, match=r"width is 70, which is not a multiple of 8, the patch size.*use 64 or 72"):
        token_grid(Grid(4, 64, 70), (4, 8, 8))
    with pytest.raises(UserError, match=r"frames is 1, which is not a multiple of 2, the stride.*use 2$"):
        latent_grid(Grid(1, 2, 2), HAAR)


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (81, 21)])
def test_where_the_first_frame_stands_alone_groups_follow(frames: int, latent_frames: int) -> None:
    assert latent_grid(Grid(frames, 64, 96), WAN) == (latent_frames, 8, 12)
    assert pixel_grid(Grid(latent_frames, 8, 12), WAN) == (frames, 64, 96)


def test_frame_counts_that_an_autoencoder_does_not_take_are_named_with_those_it_does() -> None:
    with pytest.raises(UserError, match=r"frames is 16, and this autoencoder takes 4k \+ 1 frames: use 13 or 17"):
        latent_grid(Grid(16, 64, 64), WAN)
    with pytest.raises(UserError, match=r"frames is 5, and this autoencoder takes 8k \+ 1 frames: use 1 or 9"):
        latent_grid(Grid(5, 64, 64), COGVIDEOX)
    with pytest.raises(UserError, match=r"frames is 5, .* use 1 or 9"):
        pixel_grid(Grid(2, 8, 8), COGVIDEOX)


def test_without_a_first_frame_every_frame_is_in_a_group() -> None:
    assert pixel_grid(latent_grid(Grid(16, 64, 96), HAAR), HAAR) == (16, 64, 96)


@pytest.mark.parametrize("head_size", [6, 8, 16, 32, 48, 64, 96, 128])
def test_split_head_shares_all_channels_in_pairs(head_size: int) -> None:
    parts = split_head(head_size)
    assert sum(parts) == head_size
    assert all(part >= 2 and part % 2 == 0 for part in parts)


@pytest.mark.parametrize("head_size", [4, 7])
def test_split_head_refuses_what_cannot_be_split(head_size: int) -> None:
    with pytest.raises(UserError, match=f"is {head_size}, and must be even"):
        split_head(head_size)
