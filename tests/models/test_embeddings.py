import pytest
import torch
from einops import rearrange
from torch import nn

from video_dit.models.embeddings import patchify, unpatchify
from video_dit.shapes import Grid


@pytest.mark.parametrize("patch_size", [(1, 2, 2), (2, 4, 2), (4, 1, 8)])
def test_unpatchify_inverts_patchify(patch_size: tuple[int, int, int]) -> None:
    latents = torch.randn(2, 3, 4, 8, 16)
    grid = Grid(4, 8, 16).divided_by(patch_size, "patch")
    tokens = patchify(latents, patch_size)
    assert tokens.shape == (2, grid.size, 3 * Grid(*patch_size).size)
    assert torch.equal(unpatchify(tokens, grid, patch_size), latents)


def test_a_linear_layer_on_patches_is_a_strided_convolution() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 5, kernel_size=(2, 4, 2), stride=(2, 4, 2))
    weight = rearrange(convolution.weight, "d c pt ph pw -> d (pt ph pw c)")
    latents = torch.randn(2, 3, 4, 8, 4)
    tokens = nn.functional.linear(patchify(latents, (2, 4, 2)), weight, convolution.bias)
    torch.testing.assert_close(tokens, rearrange(convolution(latents), "b d f h w -> b (f h w) d"))
