import torch
from torch import nn

from video_dit.ops.normalization import AdaLayerNormContinuous, AdaLayerNormZero


def test_ada_layer_norm_zero_starts_as_a_plain_norm_with_closed_gates() -> None:
    torch.manual_seed(0)
    x, conditioning = torch.randn(2, 5, 8), torch.randn(2, 8)
    y, gate, feed_forward = AdaLayerNormZero(8)(x, conditioning)
    torch.testing.assert_close(y, nn.functional.layer_norm(x, (8,), eps=1e-6))
    assert not gate.any()
    assert not any(part.any() for part in feed_forward)


def test_ada_layer_norms_read_their_parts_in_order() -> None:
    """The six parts of adaLN-Zero are shift, scale, gate, twice; the two of the continuous one are scale, shift."""
    x, conditioning = torch.randn(1, 3, 2), torch.zeros(1, 2)
    plain = nn.functional.layer_norm(x, (2,), eps=1e-6)

    norm = AdaLayerNormZero(2)
    norm.linear.bias.data = torch.arange(12.0)
    y, gate, feed_forward = norm(x, conditioning)
    torch.testing.assert_close(y, plain * torch.tensor([3.0, 4.0]) + torch.tensor([0.0, 1.0]))
    assert [part.flatten().tolist() for part in (gate, *feed_forward)] == [[4, 5], [6, 7], [8, 9], [10, 11]]

    continuous = AdaLayerNormContinuous(2)
    continuous.linear.bias.data = torch.arange(4.0)
    torch.testing.assert_close(continuous(x, conditioning), plain * torch.tensor([1.0, 2.0]) + torch.tensor([2.0, 3.0]))
