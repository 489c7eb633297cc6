import pytest
import torch

from video_dit.errors import UserError
from video_dit.ops.position import (
    apply_rotary,
    grid_positions,
    rotary_embedding,
    sincos_embedding,
    sinusoidal_embedding,
    split_head,
)
from video_dit.shapes import Grid


@pytest.mark.parametrize("head_size", [6, 8, 16, 32, 48, 64, 96, 128])
def test_split_head_shares_all_channels_in_pairs(head_size: int) -> None:
    parts = split_head(head_size)
    assert sum(parts) == head_size
    assert all(part >= 2 and part % 2 == 0 for part in parts)


@pytest.mark.parametrize("head_size", [4, 7])
def test_split_head_refuses_what_cannot_be_split(head_size: int) -> None:
    with pytest.raises(UserError, match=f"not {head_size}"):
        split_head(head_size)


def test_rotary_keeps_norms_and_depends_on_relative_position_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)
    where = torch.tensor([[1.0, 2.0, 3.0], [4.0, 1.5, 0.25]])
    away = where + torch.tensor([7.0, -2.0, 0.5])

    def rotate(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return apply_rotary(x.expand(1, 1, len(positions), -1), *rotary_embedding(positions, 16))[0, 0]

    torch.testing.assert_close(rotate(q, where).norm(dim=-1), q.norm().expand(2))
    torch.testing.assert_close(rotate(q, where)[0] @ rotate(k, where)[1], rotate(q, away)[0] @ rotate(k, away)[1])


def test_rotary_multiplies_complex_pairs() -> None:
    torch.manual_seed(0)
    x, positions = torch.randn(1, 1, 4, 12), torch.rand(4, 3) * 10
    cos, sin = rotary_embedding(positions, 12)
    turned = torch.view_as_complex(x.unflatten(-1, (6, 2))) * torch.complex(cos, sin)
    torch.testing.assert_close(apply_rotary(x, cos, sin), torch.view_as_real(turned).flatten(-2))


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


def test_sincos_embedding_tells_all_tokens_apart() -> None:
    embedding = sincos_embedding(grid_positions(Grid(4, 5, 6)), 32)
    distances = torch.cdist(embedding, embedding) + 9 * torch.eye(len(embedding))
    assert distances.min() > 0.1
