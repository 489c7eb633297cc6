import pytest
import torch
from torch import Tensor

from video_dit.ops.position import (
    apply_rotary,
    grid_positions,
    ntk_base,
    rotary_embedding,
    sinusoidal_embedding,
    spatial_sincos_embedding,
    temporal_sincos_embedding,
)
from video_dit.shapes import Grid

SPLIT, BASE = (4, 6, 6), (100.0, 50.0, 200.0)


def test_rotary_keeps_norms_and_depends_on_relative_position_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)
    where = torch.tensor([[1.0, 2.0, 3.0], [4.0, 1.5, 0.25]])
    away = where + torch.tensor([7.0, -2.0, 0.5])

    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        return apply_rotary(x.expand(1, 1, len(positions), -1), *rotary_embedding(positions, SPLIT, BASE))[0, 0]

    torch.testing.assert_close(rotate(q, where).norm(dim=-1), q.norm().expand(2))
    torch.testing.assert_close(rotate(q, where)[0] @ rotate(k, where)[1], rotate(q, away)[0] @ rotate(k, away)[1])


def test_rotary_multiplies_complex_pairs() -> None:
    torch.manual_seed(0)
    x, positions = torch.randn(1, 1, 4, 16), torch.rand(4, 3) * 10
    cos, sin = rotary_embedding(positions, SPLIT, BASE)
    turned = torch.view_as_complex(x.unflatten(-1, (8, 2))) * torch.complex(cos, sin)
    torch.testing.assert_close(apply_rotary(x, cos, sin), torch.view_as_real(turned).flatten(-2))


def test_each_axis_turns_its_own_channels_at_its_own_base() -> None:
    """One step along an axis: the i-th of its pairs turns by base^(-2i / channels), the others not at all."""
    for axis in range(3):
        cos, sin = rotary_embedding(torch.eye(3)[axis : axis + 1], SPLIT, BASE)
        expected = torch.cat(
            [
                torch.tensor([BASE[a] ** (-2 * i / SPLIT[a]) if a == axis else 0.0 for i in range(SPLIT[a] // 2)])
                for a in range(3)
            ]
        )
        torch.testing.assert_close(torch.atan2(sin, cos)[0], expected)


def test_samples_may_have_positions_of_their_own() -> None:
    torch.manual_seed(0)
    x, positions = torch.randn(2, 3, 4, 16), torch.rand(2, 4, 3) * 10
    together = apply_rotary(x, *rotary_embedding(positions, SPLIT, BASE))
    for row in range(2):
        alone = apply_rotary(x[row : row + 1], *rotary_embedding(positions[row], SPLIT, BASE))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_ntk_stretches_the_slowest_wavelength_and_leaves_the_fastest() -> None:
    channels, stretch = 16, 3.0
    exponents = torch.arange(0, channels, 2) / channels
    before, after = (base**-exponents for base in (100.0, ntk_base(100.0, channels, stretch)))
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[-1], before[-1] / stretch)


def test_equals_wan_s_rotary_embedding() -> None:
    """diffusers' WanRotaryPosEmbed turns the same pairs; its split gives time the rest of three equal shares."""
    wan = pytest.importorskip("diffusers.models.transformers.transformer_wan")
    grid, head_size = Grid(3, 4, 5), 32
    embedder = wan.WanRotaryPosEmbed(head_size, patch_size=(1, 2, 2), max_seq_len=64)
    cos, sin = embedder(torch.zeros(1, 4, 3, 8, 10))  # [1, V, 1, K], each angle twice
    ours = rotary_embedding(grid_positions(grid), (12, 10, 10), (1e4, 1e4, 1e4))
    torch.testing.assert_close(ours[0].repeat_interleave(2, dim=-1), cos[0, :, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1].repeat_interleave(2, dim=-1), sin[0, :, 0], rtol=1e-5, atol=1e-6)


def test_grid_positions_go_through_time_then_height_then_width() -> None:
    positions = grid_positions(Grid(2, 2, 3))
    assert positions.shape == (12, 3)
    assert positions[1].tolist() == [0, 0, 1]
    assert positions[3].tolist() == [0, 1, 0]
    assert positions[6].tolist() == [1, 0, 0]


def test_sinusoidal_embedding_is_its_formula() -> None:
    embedding = sinusoidal_embedding(torch.tensor([3.0]), 4, max_period=100.0)
    expected = [torch.tensor(angle).cos() for angle in (3.0, 0.3)] + [torch.tensor(angle).sin() for angle in (3.0, 0.3)]
    torch.testing.assert_close(embedding[0], torch.stack(expected))


def test_spatial_and_temporal_embeddings_read_their_own_axes() -> None:
    heights, widths = torch.tensor([7.0, 2.0]), torch.tensor([1.0, 8.0, 3.0])
    spatial = spatial_sincos_embedding(heights, widths, 8)[-1]
    temporal = temporal_sincos_embedding(torch.tensor([5.0]), 4)[0]
    width, height, time = (
        [f(torch.tensor(place * 10_000.0**-e)) for f in (torch.sin, torch.cos) for e in (0, 0.5)] for place in (3, 2, 5)
    )
    torch.testing.assert_close(spatial, torch.stack([*width, *height]))
    torch.testing.assert_close(temporal, torch.stack(time))


def test_factorised_embeddings_tell_all_tokens_apart() -> None:
    times, heights, widths = map(torch.arange, Grid(4, 5, 6))
    spatial, temporal = spatial_sincos_embedding(heights, widths, 32), temporal_sincos_embedding(times, 32)
    embedding = (temporal[:, None] + spatial).flatten(0, 1)
    distances = torch.cdist(embedding, embedding) + 9 * torch.eye(len(embedding))
    assert distances.min() > 0.1
