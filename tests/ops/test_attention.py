import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor

from video_dit.ops import attention as module
from video_dit.ops.attention import AttentionMask, attention

B, N, S, K = 2, 3, 10, 8


def padding() -> Tensor:
    mask = torch.ones(B, S, dtype=torch.bool)
    mask[0, 7:], mask[1, 9:] = False, False
    return mask


def blocks() -> list[tuple[Tensor, Tensor]]:
    """Block-diagonal, in blocks of different sizes that are not contiguous: even numbers, odd ones, 8 and 9."""
    parts = [torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3, 5, 7]), torch.tensor([8, 9])]
    return list(zip(parts, parts, strict=True))


def windows() -> list[tuple[Tensor, Tensor]]:
    """Each group of two sees itself and its left neighbour, the first the right one, as far as it goes."""
    return [(torch.arange(g, g + 2), torch.arange(max(0, g - 2), max(g, 2) + 2)) for g in range(0, S, 2)]


MASKS = {
    "none": lambda: None,
    "padding": lambda: AttentionMask(padding()),
    "blocks": lambda: AttentionMask.of_groups(blocks()),
    "windows": lambda: AttentionMask.of_groups(windows()),
    "windows and padding": lambda: AttentionMask(wide_padding(), AttentionMask.of_groups(windows()).groups),
}


def wide_padding() -> Tensor:
    """Every window keeps a key."""
    mask = torch.ones(B, S, dtype=torch.bool)
    mask[0, 3], mask[1, 8] = False, False
    return mask


def seen_by_definition(name: str) -> Tensor:
    """[B, S, S] bool, from the description of the masks alone."""
    seen = torch.ones(B, S, S, dtype=torch.bool)
    for query in range(S):
        for key in range(S):
            if name == "blocks":
                same_parity = query < 8 and key < 8 and query % 2 == key % 2
                seen[:, query, key] = same_parity or (query >= 8 and key >= 8)
            if name.startswith("windows"):
                group = query // 2
                seen[:, query, key] = key // 2 in ((group - 1, group) if group else (0, 1))
    if "padding" in name:
        seen &= (padding() if name == "padding" else wide_padding())[:, None]
    return seen


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Written out."""
    scores = torch.einsum("bnqk,bnsk->bnqs", q, k) / q.shape[-1] ** 0.5
    weights = torch.where(seen[:, None], scores.exp(), 0.0)
    return torch.einsum("bnqs,bnsk->bnqk", weights / weights.sum(-1, keepdim=True), v)


def inputs(requires_grad: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(B, N, S, K, requires_grad=requires_grad) for _ in range(3)]


@pytest.fixture
def xformers_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """xformers' own mask, but its kernel, which needs a GPU, written out."""
    attn_bias = pytest.importorskip("xformers.ops.fmha.attn_bias")

    def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: object = None) -> Tensor:
        bias = torch.zeros(1) if attn_bias is None else attn_bias.materialize((q.shape[1], k.shape[1]))
        scores = torch.einsum("bqnk,bsnk->bnqs", q, k) / q.shape[-1] ** 0.5 + bias
        return torch.einsum("bnqs,bsnk->bqnk", scores.softmax(-1), v)

    ops, fmha = ModuleType("xformers.ops"), ModuleType("xformers.ops.fmha")
    ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    ops.fmha, fmha.attn_bias = fmha, attn_bias  # type: ignore[attr-defined]
    for name, stub in {
        "xformers.ops": ops,
        "xformers.ops.fmha": fmha,
        "xformers.ops.fmha.attn_bias": attn_bias,
    }.items():
        monkeypatch.setitem(sys.modules, name, stub)
    monkeypatch.setattr(module, "_choose", lambda *_: module._xformers)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_what_it_says(name: str) -> None:
    mask = MASKS[name]() or AttentionMask()
    dense = mask.dense(S, S, torch.device("cpu"))
    assert torch.equal(dense.expand(B, 1, S, S)[:, 0], seen_by_definition(name))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("backend", ["auto", "sdpa", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_backend_equals_softmax_written_out(name: str, backend: str) -> None:
    q, k, v = inputs()
    with torch.no_grad():
        output = attention(q, k, v, MASKS[name](), backend)
    torch.testing.assert_close(output, softmax_attention(q, k, v, seen_by_definition(name)))


@pytest.mark.parametrize("name", MASKS)
def test_xformers_equals_softmax_written_out(name: str, xformers_on_cpu: None) -> None:
    q, k, v = inputs()
    mask = MASKS[name]()
    expected = softmax_attention(q, k, v, seen_by_definition(name))
    for _ in range(2):  # the second time from what the mask remembers
        torch.testing.assert_close(attention(q, k, v, mask), expected)


def test_xformers_is_asked_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU's tensors; a GPU's where one of its kernels says so, as this one does of fp32 and heads of 8."""
    fmha = pytest.importorskip("xformers.ops.fmha")

    def supports(given: fmha.Inputs) -> bool:
        return given.query.dtype == torch.float32 and given.query.shape[-1] == 8

    assert not module._xformers_takes(torch.device("cpu"), torch.float32, 8)
    monkeypatch.setattr(fmha.cutlass.FwOp, "supports", supports)
    takes = partial(module._xformers_takes.__wrapped__, torch.device("cpu"))
    assert takes(torch.float32, 8)
    assert not takes(torch.float32, 6)
    assert not takes(torch.float16, 8)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("backend", ["sdpa", "flex", "xformers"])
def test_gradients_equal_those_of_softmax_written_out(name: str, backend: str) -> None:
    """Without a GPU, xformers and the backward pass of FlexAttention fall back to what is exact."""
    ours, theirs = inputs(requires_grad=True), inputs(requires_grad=True)
    attention(*ours, MASKS[name](), backend).square().sum().backward()
    softmax_attention(*theirs, seen_by_definition(name)).square().sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("wanted", range(3))
def test_flex_falls_back_on_a_cpu_whichever_input_needs_a_gradient(wanted: int) -> None:
    tensors = [x.requires_grad_(index == wanted) for index, x in enumerate(inputs())]
    attention(*tensors, None, "flex").sum().backward()
    assert tensors[wanted].grad is not None


def test_padding_alone_needs_no_memory_for_pairs_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def scaled_dot_product_attention(q: Tensor, *_: Tensor, attn_mask: Tensor) -> Tensor:
        seen.append(attn_mask.shape)
        return q

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", scaled_dot_product_attention)
    attention(*inputs(), AttentionMask(padding()))
    assert seen == [(B, 1, 1, S)]


def test_masked_keys_count_for_nothing() -> None:
    q, k, v = inputs()
    k_other, v_other = (torch.where(padding()[:, None, :, None], x, 1e4) for x in (k, v))
    mask = AttentionMask(padding())
    assert torch.equal(attention(q, k, v, mask), attention(q, k_other, v_other, mask))


def test_queries_may_be_fewer_than_keys() -> None:
    """As in the last joint block, where the text is seen and does not look."""
    q, k, v = inputs()
    groups = [(torch.tensor([0, 2]), torch.tensor([0, 2, 8])), (torch.tensor([1]), torch.tensor([1, 3, 9, 4]))]
    seen = torch.zeros(B, 3, S, dtype=torch.bool)
    seen[:, [[0], [2]], [0, 2, 8]] = True
    seen[:, 1, [1, 3, 9, 4]] = True
    output = attention(q[:, :, :3], k, v, AttentionMask.of_groups(groups))
    torch.testing.assert_close(output, softmax_attention(q[:, :, :3], k, v, seen))


def test_gradcheck_in_float64() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, S, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = AttentionMask(wide_padding()[:1], AttentionMask.of_groups(windows()).groups)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, mask), (q, k, v))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("backend", ["auto", "sdpa", "flex", "xformers"])
def test_on_a_gpu_in_bf16_every_backend_equals_softmax_written_out(name: str, backend: str) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, N, S, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = MASKS[name]()
    if mask is not None:
        groups = mask.groups and tuple(type(g)(*(index.cuda() for index in g)) for g in mask.groups)
        mask = AttentionMask(None if mask.padding is None else mask.padding.cuda(), groups)
    output = attention(q, k, v, mask, backend)
    expected = softmax_attention(*(x.detach().float() for x in (q, k, v)), seen_by_definition(name).cuda())
    torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=2e-2)
    output.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))
