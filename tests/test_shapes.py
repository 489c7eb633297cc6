import pytest

from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid, split_head, token_grid


def test_pixels_to_latents_to_tokens() -> None:
    latents = latent_grid(Grid(16, 64, 96), (2, 2, 2))
    assert latents == (8, 32, 48)
    tokens = token_grid(latents, (4, 8, 8))
    assert tokens == (2, 4, 6)
    assert tokens.size == 48


def test_what_does_not_fit_is_named_with_what_would() -> None:
    with pytest.raises(UserError, match=r"width is 70, which is not a multiple of 8, the patch size.*use 64 or 72"):
        token_grid(Grid(4, 64, 70), (4, 8, 8))
    with pytest.raises(UserError, match=r"frames is 1, which is not a multiple of 2, the stride.*use 2 or 2"):
        latent_grid(Grid(1, 2, 2), (2, 2, 2))


@pytest.mark.parametrize("head_size", [6, 8, 16, 32, 48, 64, 96, 128])
def test_split_head_shares_all_channels_in_pairs(head_size: int) -> None:
    parts = split_head(head_size)
    assert sum(parts) == head_size
    assert all(part >= 2 and part % 2 == 0 for part in parts)


@pytest.mark.parametrize("head_size", [4, 7])
def test_split_head_refuses_what_cannot_be_split(head_size: int) -> None:
    with pytest.raises(UserError, match=f"is {head_size}, and must be even"):
        split_head(head_size)
