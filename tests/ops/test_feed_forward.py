import pytest
import torch
from torch import Tensor, nn

from video_dit.ops.feed_forward import FeedForward

V = 10


def twins(chunk_size: int, width: int = 8) -> tuple[FeedForward, FeedForward]:
    torch.manual_seed(0)
    whole, chunked = FeedForward(width), FeedForward(width, chunk_size=chunk_size)
    chunked.load_state_dict(whole.state_dict())
    return whole, chunked


@pytest.mark.parametrize("chunk_size", range(1, V + 2))
def test_chunks_change_neither_values_nor_gradients(chunk_size: int) -> None:
    whole, chunked = twins(chunk_size)
    inputs = [torch.randn(2, V, 8, generator=torch.Generator().manual_seed(1), requires_grad=True) for _ in range(2)]
    outputs = [layer(x) for layer, x in zip((whole, chunked), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for ours, theirs in zip(chunked.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.no_grad():
        torch.testing.assert_close(chunked(inputs[1]), outputs[0])


def kept_for_backward(layer: nn.Module, x: Tensor) -> int:
    """Numbers that autograd keeps, apart from the weights."""
    weights = {parameter.data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(x)
    assert output.requires_grad
    return sum(kept.values())


def test_in_training_chunks_keep_their_inputs_alone() -> None:
    """The hidden layer before and after the GELU, 8 numbers for each of the input's, is computed again."""
    whole, chunked = twins(chunk_size=3)
    x = torch.randn(2, V, 8, requires_grad=True)
    assert kept_for_backward(whole, x) == 9 * x.numel()
    assert kept_for_backward(chunked, x) == x.numel()


def test_equals_its_formula() -> None:
    layer = FeedForward(4, mlp_ratio=1.5)
    x = torch.randn(1, 3, 4)
    hidden = x @ layer.linear_in.weight.T + layer.linear_in.bias
    gelu = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(layer(x), gelu @ layer.linear_out.weight.T + layer.linear_out.bias)


def test_gradcheck_in_float64() -> None:
    layer = FeedForward(3, mlp_ratio=2, chunk_size=2).double()
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.gpu
def test_on_a_gpu_chunks_lower_the_peak_of_memory() -> None:
    peaks = []
    for layer in twins(chunk_size=1024, width=512):
        layer.cuda()
        x = torch.randn(1, 16384, 512, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        layer(x).square().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < peaks[0] / 2
