import pytest
import torch
from einops import rearrange
from torch import nn

from video_dit.config import ModelConfig
from video_dit.contracts import ClipInfo
from video_dit.models.embeddings import PositionEmbedding, patchify, unpatchify
from video_dit.ops.position import ntk_base, rotary_embedding, spatial_sincos_embedding, temporal_sincos_embedding
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


TRAINED = Grid(4, 6, 6)
CPU = torch.device("cpu")


def positions_of(grid: Grid, fps: list[float] | None = None, **keys: object) -> torch.Tensor:
    clip = fps and ClipInfo(torch.tensor(fps), torch.zeros(len(fps), 2), torch.zeros(len(fps), 2))
    embedding = PositionEmbedding(ModelConfig(**keys), TRAINED)  # type: ignore[arg-type]
    return embedding.positions(grid, clip or None, CPU)


def test_clips_of_different_rates_share_one_axis_of_seconds() -> None:
    """A second of a clip at 24 fps, and of one at 12 fps, end at the same place."""
    fast, slow = positions_of(Grid(24, 1, 1), fps=[24.0, 12.0], reference_fps=24.0)[..., 0]
    torch.testing.assert_close(slow[:12], fast[::2])
    torch.testing.assert_close(fast, torch.arange(24.0))
    assert positions_of(Grid(3, 1, 1), fps=[24.0], reference_fps=16.0)[0, :, 0].tolist() == pytest.approx(
        [0, 2 / 3, 4 / 3]
    )


def test_places_in_a_frame_are_the_middle_of_the_position_grid() -> None:
    """Grids of any aspect ratio have their middle in common."""
    for grid in (Grid(1, 4, 8), Grid(1, 8, 4), Grid(1, 2, 2)):
        middle = positions_of(grid, position_grid=(12, 16), position_scale=0.5)[:, 1:].mean(0)
        torch.testing.assert_close(middle, torch.tensor([5.5, 7.5]) * 0.5)
    assert positions_of(Grid(1, 4, 8))[:, 1:].amin(0).tolist() == [0, 0]


def test_interpolation_keeps_a_longer_clip_within_what_was_trained() -> None:
    config = ModelConfig(rotary_scaling="interpolation")
    embedding = PositionEmbedding(config, TRAINED)
    grid = Grid(8, 6, 3)  # twice as long; a smaller frame is not stretched
    positions = embedding.positions(grid, None, CPU)
    expected = rotary_embedding(positions / torch.tensor([2.0, 1.0, 1.0]), config.rotary_channels, config.rotary_base)
    for ours, theirs in zip(embedding.rotary(grid, positions), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_ntk_changes_the_base_of_the_axes_that_are_longer() -> None:
    config = ModelConfig(rotary_scaling="ntk")
    embedding = PositionEmbedding(config, TRAINED)
    grid = Grid(4, 6, 18)
    positions = embedding.positions(grid, None, CPU)
    base = (100.0, 100.0, ntk_base(100.0, config.rotary_channels[2], 3.0))
    for ours, theirs in zip(
        embedding.rotary(grid, positions), rotary_embedding(positions, config.rotary_channels, base), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_learned_tables_are_read_at_the_token_s_place() -> None:
    keys = {"spatial_position": "learned", "temporal_position": "learned", "position_grid": (8, 10)}
    embedding = PositionEmbedding(ModelConfig(**keys), TRAINED)
    nn.init.normal_(embedding.temporal)
    grid = Grid(3, 4, 6)
    added = embedding.added(grid, embedding.positions(grid, None, CPU)).view(*grid, -1)
    for place in [(0, 0, 0), (2, 3, 5), (1, 2, 4)]:
        expected = embedding.temporal[place[0]] + embedding.spatial[2 + place[1], 2 + place[2]]
        torch.testing.assert_close(added[place], expected)


def test_sincos_embeddings_are_read_at_the_token_s_place() -> None:
    """Row, column and time of each token, of clips of different rates, each on its own."""
    config = ModelConfig(reference_fps=8.0, position_grid=(8, 10), position_scale=0.5, hidden_size=32)
    embedding = PositionEmbedding(config, TRAINED)
    grid, clip = Grid(3, 4, 6), ClipInfo(torch.tensor([8.0, 16.0]), torch.zeros(2, 2), torch.zeros(2, 2))
    positions = embedding.positions(grid, clip, CPU)
    added = embedding.added(grid, positions)
    assert added.shape == (2, grid.size, 32)
    for row, token in [(0, 0), (1, 71), (1, 32)]:
        time, height, width = positions[row, token][:, None]
        expected = spatial_sincos_embedding(height, width, 32) + temporal_sincos_embedding(time, 32)
        torch.testing.assert_close(added[row, token], expected[0])


def test_spatial_and_temporal_embeddings_are_added_to_each_other() -> None:
    positions = positions_of(Grid(3, 2, 2))
    parts = []
    for spatial, temporal in (("sincos", "none"), ("none", "sincos"), ("sincos", "sincos"), ("none", "none")):
        config = ModelConfig(spatial_position=spatial, temporal_position=temporal)
        parts.append(PositionEmbedding(config, TRAINED).added(Grid(3, 2, 2), positions))
    of_frame = spatial_sincos_embedding(torch.arange(2), torch.arange(2), 256)
    torch.testing.assert_close(parts[0], of_frame.repeat(3, 1))
    torch.testing.assert_close(parts[0] + parts[1], parts[2])
    assert parts[3] is None
