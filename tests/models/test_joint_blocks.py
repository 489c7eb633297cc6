import pytest
import torch
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.models.context import Context, Masks
from video_dit.models.joint_blocks import JointTransformerBlock, SingleStreamBlock
from video_dit.ops.attention import AttentionMask
from video_dit.ops.normalization import Conditioning
from video_dit.ops.position import grid_positions, rotary_embedding
from video_dit.shapes import Grid

B, L, D, N = 2, 3, 24, 2
GRID = Grid(2, 1, 2)
V = GRID.size
TEXT_MASK = torch.tensor([[True, True, True], [True, True, False]])


def config(**keys: object) -> ModelConfig:
    return ModelConfig(hidden_size=D, num_heads=N, **keys)  # type: ignore[arg-type]


def random_inputs(padded: bool = True) -> tuple[Tensor, Tensor, Context]:
    torch.manual_seed(0)
    mask = AttentionMask(torch.cat((torch.ones(B, V, dtype=torch.bool), TEXT_MASK), dim=1)) if padded else None
    rotary = rotary_embedding(grid_positions(GRID), (4, 4, 4), (100.0, 100.0, 100.0))
    conditioning = Conditioning(torch.randn(B, 1, D))
    context = Context(conditioning, conditioning, Masks(joint=mask, into_video=mask), rotary)
    return torch.randn(B, V, D), torch.randn(B, L, D), context


def with_random_weights(block: nn.Module) -> nn.Module:
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.parametrize("use_dual_attention", [False, True])
@pytest.mark.parametrize("text_split", [None, 2])
def test_a_fresh_block_is_the_identity(text_split: int | None, use_dual_attention: bool) -> None:
    video, text, context = random_inputs()
    block = JointTransformerBlock(config(text_split=text_split), use_dual_attention=use_dual_attention)
    for fresh in (block, SingleStreamBlock(config())):
        video_out, text_out = fresh(video, text, context)
        assert torch.equal(video_out, video)
        assert torch.equal(text_out, text)


@pytest.mark.parametrize("qk_norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("context_pre_only", [False, True])
def test_equals_the_block_written_out_per_token(qk_norm: str, context_pre_only: bool) -> None:
    """Figure 2b of arXiv 2403.03206 in loops over samples, heads and tokens, with none of the project's layers."""
    video, text, context = random_inputs()
    (cos, sin), conditioning = context.rotary, context.video_conditioning.vectors
    block = with_random_weights(JointTransformerBlock(config(qk_norm=qk_norm), context_pre_only))
    weights = dict(block.named_parameters())
    video_out, text_out = block(video, text, context)

    def linear(name: str, x: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def layer_norm(x: Tensor) -> Tensor:
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt()

    def head_norm(name: str, x: Tensor) -> Tensor:
        if qk_norm == "rms":
            return x / (x.square().mean() + 1e-6).sqrt() * weights[f"{name}.weight"]
        return layer_norm(x) * weights[f"{name}.weight"] + weights[f"{name}.bias"] if qk_norm == "layer" else x

    def head_vectors(stream: str, x: Tensor, head: int, position: int | None) -> tuple[Tensor, Tensor, Tensor]:
        size = D // N
        found = {}
        for kind in ("q", "k", "v"):
            silent = context_pre_only and stream != "video" and kind == "q"
            whole = torch.zeros(D) if silent else linear(f"{stream}.to_{kind}.linear", x)
            found[kind] = whole[head * size : (head + 1) * size]
            if kind != "v" and not silent:
                found[kind] = head_norm(f"{stream}.to_{kind}.norm", found[kind])
                if position is not None:
                    turn = torch.complex(cos[position], sin[position])
                    turned = torch.view_as_complex(found[kind].view(-1, 2)) * turn
                    found[kind] = torch.view_as_real(turned).flatten()
        return found["q"], found["k"], found["v"]

    def feed_forward(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.linear_out", nn.functional.gelu(linear(f"{name}.linear_in", x), approximate="tanh"))

    for row in range(B):
        c = nn.functional.silu(conditioning[row, 0])
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = linear("video.norm.linear", c).split(D)
        of_text = linear("texts.0.norm.linear", c).split(D)
        shift_text, scale_text = (of_text[1], of_text[0]) if context_pre_only else of_text[:2]
        tokens = [("video", layer_norm(x) * (1 + scale) + shift, place) for place, x in enumerate(video[row])]
        seen_text = text[row][TEXT_MASK[row]]
        tokens += [("texts.0", layer_norm(x) * (1 + scale_text) + shift_text, None) for x in seen_text]
        attended = [torch.zeros(0) for _ in tokens]
        for head in range(N):
            triples = [head_vectors(stream, x, head, place) for stream, x, place in tokens]
            for index, (q, _, _) in enumerate(triples):
                scores = torch.stack([q @ k for _, k, _ in triples]) / (D // N) ** 0.5
                mixed = sum(p * v for p, (_, _, v) in zip(scores.softmax(0), triples, strict=True))
                attended[index] = torch.cat((attended[index], mixed))

        for place, x in enumerate(video[row]):
            x = x + gate * linear("video.to_out", attended[place])
            x = x + gate_mlp * feed_forward("video.feed_forward", layer_norm(x) * (1 + scale_mlp) + shift_mlp)
            torch.testing.assert_close(video_out[row, place], x, rtol=1e-4, atol=1e-4)
        if context_pre_only:
            assert torch.equal(text_out, text)
            continue
        gate, shift_mlp, scale_mlp, gate_mlp = of_text[2:]
        for place, x in enumerate(seen_text):
            x = x + gate * linear("texts.0.to_out", attended[V + place])
            x = x + gate_mlp * feed_forward("texts.0.feed_forward", layer_norm(x) * (1 + scale_mlp) + shift_mlp)
            torch.testing.assert_close(text_out[row, place], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context_pre_only", [False, True])
def test_three_streams_with_equal_weights_are_two(context_pre_only: bool) -> None:
    video, text, context = random_inputs()
    two = with_random_weights(JointTransformerBlock(config(), context_pre_only))
    three = JointTransformerBlock(config(text_split=1), context_pre_only)
    state = dict(two.state_dict())
    state |= {name.replace("texts.0", "texts.1"): x for name, x in state.items() if name.startswith("texts.0")}
    three.load_state_dict(state)
    for ours, theirs in zip(three(video, text, context), two(video, text, context), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_third_set_of_weights_belongs_to_the_text_after_the_split() -> None:
    video, text, context = random_inputs(padded=False)
    block = with_random_weights(JointTransformerBlock(config(text_split=1)))
    before = block(video, text, context)
    nn.init.normal_(block.texts[1].feed_forward.linear_out.weight)
    after = block(video, text, context)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1][:, :1], before[1][:, :1])
    assert not torch.isclose(after[1][:, 1:], before[1][:, 1:]).any()


def test_qk_norm_can_differ_between_the_streams() -> None:
    block = JointTransformerBlock(config(qk_norm="rms", text_qk_norm="layer"))
    for stream, norm in ((block.video, nn.RMSNorm), (block.texts[0], nn.LayerNorm)):
        assert isinstance(stream.to_q.norm, norm)
        assert isinstance(stream.to_k.norm, norm)


@pytest.mark.parametrize("context_pre_only", [False, True])
def test_a_compiled_block_gives_the_same_without_a_graph_break(context_pre_only: bool) -> None:
    video, text, context = random_inputs()
    block = with_random_weights(
        JointTransformerBlock(config(), context_pre_only, use_dual_attention=not context_pre_only)
    )
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(video, text, context), block(video, text, context), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradcheck_in_float64() -> None:
    """With rotary embeddings and padding, over the inputs and the conditioning."""
    video, text, context = random_inputs()
    block = with_random_weights(JointTransformerBlock(config(), use_dual_attention=True)).double()
    context = context._replace(rotary=tuple(part.double() for part in context.rotary))

    def run(video: Tensor, text: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        conditioning = Conditioning(vectors)
        own = context._replace(video_conditioning=conditioning, text_conditioning=conditioning)
        return block(video, text, own)

    inputs = (video, text, context.video_conditioning.vectors)
    assert torch.autograd.gradcheck(run, [x[:, :, :].double().requires_grad_() for x in inputs], fast_mode=True)


@pytest.mark.gpu
def test_on_a_gpu_a_block_compiled_by_inductor_gives_the_same() -> None:
    torch.manual_seed(0)
    block = with_random_weights(JointTransformerBlock(config())).cuda()
    conditioning = Conditioning(torch.randn(B, 1, D, device="cuda"))
    video, text = torch.randn(B, V, D, device="cuda"), torch.randn(B, L, D, device="cuda")
    inputs = (video, text, Context(conditioning, conditioning))
    for ours, theirs in zip(torch.compile(block, fullgraph=True)(*inputs), block(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
