import torch

from video_dit.ops.attention import attention


def test_equals_softmax_written_out() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.rand(2, 7) < 0.6
    mask[:, 0] = True

    scores = torch.einsum("bnqk,bnsk->bnqs", q, k) / 8**0.5
    weights = torch.where(mask[:, None, None], scores.exp(), 0.0)
    expected = torch.einsum("bnqs,bnsk->bnqk", weights / weights.sum(-1, keepdim=True), v)

    torch.testing.assert_close(attention(q, k, v, mask), expected)


def test_masked_keys_count_for_nothing() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 8) for _ in range(3))
    mask = torch.tensor([[True, True, True, True, False, False]])
    k_other, v_other = k.clone(), v.clone()
    k_other[:, :, 4:], v_other[:, :, 4:] = 1e4, -1e4

    assert torch.equal(attention(q, k, v, mask), attention(q, k_other, v_other, mask))
