import pytest
import torch
from torch import Tensor, nn

from video_dit.models.blocks import JointTransformerBlock
from video_dit.ops.position import grid_positions, rotary_embedding
from video_dit.shapes import Grid

B, L, D, N = 2, 3, 24, 2
GRID = Grid(2, 1, 2)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rotary = rotary_embedding(grid_positions(GRID), D // N)
    return torch.randn(B, GRID.size, D), torch.randn(B, L, D), torch.randn(B, D), mask, rotary


def with_random_weights(block: nn.Module) -> nn.Module:
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def test_a_fresh_block_is_the_identity(inputs: tuple) -> None:
    video, text, *rest = inputs
    video_out, text_out = JointTransformerBlock(D, N)(video, text, *rest)
    assert torch.equal(video_out, video)
    assert torch.equal(text_out, text)


@pytest.mark.parametrize("qk_norm", ["none", "rms"])
@pytest.mark.parametrize("context_pre_only", [False, True])
def test_equals_the_block_written_out_per_token(inputs: tuple, qk_norm: str, context_pre_only: bool) -> None:
    """Figure 2b of arXiv 2403.03206 in loops over samples, heads and tokens, with none of the project's layers."""
    video, text, conditioning, mask, (cos, sin) = inputs
    block = with_random_weights(JointTransformerBlock(D, N, qk_norm=qk_norm, context_pre_only=context_pre_only))
    weights = dict(block.named_parameters())
    video_out, text_out = block(video, text, conditioning, mask, (cos, sin))

    def linear(name: str, x: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def layer_norm(x: Tensor) -> Tensor:
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()

    def head_vectors(stream: str, x: Tensor, head: int, position: int | None) -> tuple[Tensor, Tensor, Tensor]:
        size = D // N
        silent = context_pre_only and stream == "text"
        q, k, v = (
            linear(f"attn.{stream}_{kind}.linear", x)[head * size : (head + 1) * size]
            if kind in kinds
            else torch.zeros(size)
            for kind, kinds in (("q", "" if silent else "q"), ("k", "k"), ("v", "v"))
        )
        if qk_norm == "rms":
            k = k / (k.square().mean() + 1e-6).sqrt() * weights[f"attn.{stream}_k.norm.weight"]
            if not silent:
                q = q / (q.square().mean() + 1e-6).sqrt() * weights[f"attn.{stream}_q.norm.weight"]
        if position is not None:
            turn = torch.complex(cos[position], sin[position])
            q, k = (torch.view_as_real(torch.view_as_complex(x.view(-1, 2)) * turn).flatten() for x in (q, k))
        return q, k, v

    def feed_forward(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.linear_out", nn.functional.gelu(linear(f"{name}.linear_in", x), approximate="tanh"))

    for row in range(B):
        c = nn.functional.silu(conditioning[row])
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = linear("norm1.linear", c).split(D)
        modulation_text = linear("norm1_context.linear", c).split(D)
        shift_text, scale_text = (modulation_text[1], modulation_text[0]) if context_pre_only else modulation_text[:2]
        tokens = [("video", layer_norm(x) * (1 + scale) + shift, place) for place, x in enumerate(video[row])]
        tokens += [("text", layer_norm(x) * (1 + scale_text) + shift_text, None) for x in text[row][mask[row]]]
        attended = [torch.zeros(0) for _ in tokens]
        for head in range(N):
            triples = [head_vectors(stream, x, head, place) for stream, x, place in tokens]
            for index, (q, _, _) in enumerate(triples):
                scores = torch.stack([q @ k for _, k, _ in triples]) / (D // N) ** 0.5
                mixed = sum(p * v for p, (_, _, v) in zip(scores.softmax(0), triples, strict=True))
                attended[index] = torch.cat((attended[index], mixed))

        for place, x in enumerate(video[row]):
            x = x + gate * linear("attn.video_out", attended[place])
            x = x + gate_mlp * feed_forward("ff", layer_norm(x) * (1 + scale_mlp) + shift_mlp)
            torch.testing.assert_close(video_out[row, place], x, rtol=1e-4, atol=1e-4)
        if context_pre_only:
            assert text_out is None
            continue
        gate, shift_mlp, scale_mlp, gate_mlp = modulation_text[2:]
        for place, x in enumerate(text[row][mask[row]]):
            x = x + gate * linear("attn.text_out", attended[GRID.size + place])
            x = x + gate_mlp * feed_forward("ff_context", layer_norm(x) * (1 + scale_mlp) + shift_mlp)
            torch.testing.assert_close(text_out[row, place], x, rtol=1e-4, atol=1e-4)
