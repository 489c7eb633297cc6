import torch
from torch import Tensor, nn

from video_dit.ops.normalization import (
    AdaLayerNorm,
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    Branch,
    Conditioning,
    LayerNorms,
)


def plain_norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def test_every_norm_starts_as_a_plain_one_and_adaln_zero_with_closed_gates() -> None:
    torch.manual_seed(0)
    x, y, conditioning = torch.randn(2, 5, 8), torch.randn(2, 5, 8), Conditioning(torch.randn(2, 1, 8))
    for layer in (AdaLayerNormZero(8), AdaLayerNorm(8), AdaLayerNormContinuous(8), LayerNorms(8)):
        for branch in layer(conditioning):
            torch.testing.assert_close(branch.norm(x), plain_norm(x))
            starts_closed = isinstance(layer, AdaLayerNormZero)
            torch.testing.assert_close(branch.add(x, y), x if starts_closed else x + y)


def test_parts_are_read_in_order() -> None:
    """adaLN-Zero: shift, scale, gate of each branch; adaLN: shift, scale; the continuous one: scale, shift."""
    x, y, conditioning = torch.randn(1, 3, 2), torch.randn(1, 3, 2), Conditioning(torch.zeros(1, 1, 2))

    def with_counted_bias(layer: nn.Module) -> nn.Module:
        layer.linear.bias.data = torch.arange(float(len(layer.linear.bias)))
        return layer

    def pair(first: float) -> Tensor:
        return torch.tensor([first, first + 1])

    first, second, third = with_counted_bias(AdaLayerNormZero(2, num_branches=3))(conditioning)
    torch.testing.assert_close(first.norm(x), plain_norm(x) * (1 + pair(2)) + pair(0))
    torch.testing.assert_close(first.add(x, y), x + pair(4) * y)
    torch.testing.assert_close(second.norm(x), plain_norm(x) * (1 + pair(8)) + pair(6))
    torch.testing.assert_close(third.add(x, y), x + pair(16) * y)

    first, second = with_counted_bias(AdaLayerNorm(2))(conditioning)
    torch.testing.assert_close(second.norm(x), plain_norm(x) * (1 + pair(6)) + pair(4))
    (only,) = with_counted_bias(AdaLayerNormContinuous(2))(conditioning)
    torch.testing.assert_close(only.norm(x), plain_norm(x) * (1 + pair(0)) + pair(2))


def test_a_residual_stream_in_fp16_stays_finite() -> None:
    """Only infinity is kept away: what is not a number stays so, and with it the step is left out."""
    x, y = torch.tensor([6e4, -6e4, torch.nan, 1.0]).half(), torch.tensor([6e4, -6e4, 1.0, 1.0]).half()
    largest = torch.finfo(torch.float16).max
    for gate in (None, torch.ones(()).half()):
        added = Branch(torch.zeros(()), torch.zeros(()), gate).add(x, y)
        torch.testing.assert_close(added, torch.tensor([largest, -largest, torch.nan, 2.0]).half(), equal_nan=True)
    assert Branch(torch.zeros(()), torch.zeros(()), None).add(x.bfloat16(), y.bfloat16())[0] > largest


def test_each_token_obeys_its_own_vector() -> None:
    torch.manual_seed(0)
    layer = AdaLayerNormZero(4)
    nn.init.normal_(layer.linear.weight)
    x, vectors = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    vector_of_token = torch.tensor([0, 2, 2, 1, 0])
    together = layer(Conditioning(vectors, vector_of_token))[1]
    for token, index in enumerate(vector_of_token.tolist()):
        alone = layer(Conditioning(vectors[:, index : index + 1]))[1]
        one = slice(token, token + 1)
        torch.testing.assert_close(together.norm(x)[:, one], alone.norm(x[:, one]))
        torch.testing.assert_close(together.add(x, x)[:, one], alone.add(x[:, one], x[:, one]))


def test_gradcheck_in_float64() -> None:
    layer = AdaLayerNormZero(3).double()
    nn.init.normal_(layer.linear.weight)

    def add_norm(x: Tensor, vectors: Tensor) -> Tensor:
        first, second = layer(Conditioning(vectors))
        return second.add(x, first.norm(x))

    x, vectors = (torch.randn(1, n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 1))
    assert torch.autograd.gradcheck(add_norm, (x, vectors))
