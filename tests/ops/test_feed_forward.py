import pytest
import torch

from video_dit.ops.feed_forward import FeedForward


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 7, 10, 11])
def test_chunks_change_neither_values_nor_gradients(chunk_size: int) -> None:
    torch.manual_seed(0)
    whole = FeedForward(8)
    chunked = FeedForward(8, chunk_size=chunk_size)
    chunked.load_state_dict(whole.state_dict())
    x = torch.randn(2, 10, 8)

    torch.testing.assert_close(chunked(x), whole(x))
    whole(x).square().sum().backward()
    chunked(x).square().sum().backward()
    for ours, theirs in zip(chunked.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
