import pytest

from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid, token_grid


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
