"""Forward and gradients against diffusers' implementations with the same random weights, in fp32 on the CPU."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from random_inputs import random_text
from safetensors.torch import save_file
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.errors import UserError
from video_dit.models import VideoDiT
from video_dit.models.context import Context
from video_dit.models.joint_blocks import JointTransformerBlock, SingleStreamBlock
from video_dit.models.sd3 import BLOCK_NAMES, Checkpoint, renamed
from video_dit.models.transformer_block import TransformerBlock
from video_dit.ops.normalization import Conditioning

diffusers = pytest.importorskip("diffusers")

from diffusers import SD3Transformer2DModel  # noqa: E402
from diffusers.models.attention import BasicTransformerBlock  # noqa: E402
from diffusers.models.attention import JointTransformerBlock as PeerBlock  # noqa: E402
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock  # noqa: E402

B, V, L, D, N = 2, 12, 5, 32, 4
TOLERANCE = 1e-5
QK_NORMS = {"none": None, "rms": "rms_norm", "layer": "layer_norm"}


def with_random_weights(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def block_weights(peer: nn.Module, ours: nn.Module) -> dict[str, Tensor]:
    """The peer's weights by our names, through the table that `from_sd3` uses."""
    renamed = {}
    for name, tensor in peer.state_dict().items():
        layer, _, kind = name.rpartition(".")
        renamed[f"{BLOCK_NAMES[layer]}.{kind}"] = tensor
    unread = {"texts.0.to_q.linear", "texts.0.to_q.norm"} if ours.context_pre_only else set()
    return {name: tensor for name, tensor in renamed.items() if name.rpartition(".")[0] not in unread}


def assert_close_by_layer(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Relative to the layer, since a key's bias shifts all scores alike and has no gradient but rounding."""
    for name, gradient in ours.items():
        layer = [x for key, x in theirs.items() if key.rpartition(".")[0] == name.rpartition(".")[0]]
        largest = max(float(x.abs().max()) for x in layer)
        assert float((gradient - theirs[name]).abs().max()) < TOLERANCE * largest, name


@pytest.mark.parametrize(
    ("context_pre_only", "qk_norm", "use_dual_attention"), list(product([False, True], QK_NORMS, [False, True]))
)
def test_joint_transformer_block(context_pre_only: bool, qk_norm: str, use_dual_attention: bool) -> None:
    config = ModelConfig(hidden_size=D, num_heads=N, qk_norm=qk_norm)  # type: ignore[arg-type]
    ours = JointTransformerBlock(config, context_pre_only, use_dual_attention)
    peer = with_random_weights(PeerBlock(D, N, D // N, context_pre_only, QK_NORMS[qk_norm], use_dual_attention))
    ours.load_state_dict(block_weights(peer, ours))

    video, text, vector = torch.randn(B, V, D), torch.randn(B, L, D), torch.randn(B, D)
    inputs = [[x.clone().requires_grad_() for x in (video, text, vector)] for _ in range(2)]
    conditioning = Conditioning(inputs[0][2][:, None])
    video_out, text_out = ours(*inputs[0][:2], Context(conditioning, conditioning))
    peer_text_out, peer_video_out = peer(*inputs[1])
    assert relative_error(video_out, peer_video_out) < TOLERANCE
    if not context_pre_only:
        assert relative_error(text_out, peer_text_out) < TOLERANCE

    weigh_video, weigh_text = torch.randn(B, V, D), torch.randn(B, L, D)
    loss, peer_loss = (video_out * weigh_video).sum(), (peer_video_out * weigh_video).sum()
    if not context_pre_only:
        loss, peer_loss = loss + (text_out * weigh_text).sum(), peer_loss + (peer_text_out * weigh_text).sum()
    loss.backward()
    peer_loss.backward()
    for mine, theirs in zip(*inputs, strict=True):
        assert relative_error(mine.grad, theirs.grad) < TOLERANCE
    for parameter in peer.parameters():  # so that the table of names maps the gradients as well
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    assert_close_by_layer({name: x.grad for name, x in ours.named_parameters()}, block_weights(peer, ours))


def test_single_stream_block_is_flux_s() -> None:
    """Flux projects attention and feed-forward together; and its text comes first, which changes nothing."""
    peer = with_random_weights(FluxSingleTransformerBlock(D, N, D // N))
    weights = peer.state_dict()
    attention_out, feed_forward_out = weights["proj_out.weight"].split([D, 4 * D], dim=1)
    ours = SingleStreamBlock(ModelConfig(hidden_size=D, num_heads=N))
    renamed = {
        "norm.linear": "norm.linear", "feed_forward.linear_in": "proj_mlp",
        "attention.to_q.linear": "attn.to_q", "attention.to_k.linear": "attn.to_k",
        "attention.to_v.linear": "attn.to_v",
    }  # fmt: skip
    state = {f"{a}.{kind}": weights[f"{b}.{kind}"] for a, b in renamed.items() for kind in ("weight", "bias")}
    state |= {f"attention.to_{x}.norm.weight": weights[f"attn.norm_{x}.weight"] for x in ("q", "k")}
    state |= {"attention.to_out.weight": attention_out, "attention.to_out.bias": torch.zeros(D)}
    state |= {
        "feed_forward.linear_out.weight": feed_forward_out,
        "feed_forward.linear_out.bias": weights["proj_out.bias"],
    }
    ours.load_state_dict(state)

    video, text, vector = torch.randn(B, V, D), torch.randn(B, L, D), torch.randn(B, D)
    conditioning = Conditioning(vector[:, None])
    video_out, text_out = ours(video, text, Context(conditioning, conditioning))
    peer_text_out, peer_video_out = peer(video, text, vector)
    assert relative_error(video_out, peer_video_out) < TOLERANCE
    assert relative_error(text_out, peer_text_out) < TOLERANCE


def test_adaln_zero_block_is_dit_s() -> None:
    """diffusers embeds timestep and class inside the block; its vector is given to ours."""
    peer = with_random_weights(
        BasicTransformerBlock(
            D, N, D // N, num_embeds_ada_norm=10, norm_type="ada_norm_zero", norm_elementwise_affine=False,
            attention_bias=True, activation_fn="gelu-approximate", norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    ours = TransformerBlock(ModelConfig(hidden_size=D, num_heads=N, qk_norm="none"))
    names = {
        "norm.linear": "norm1.linear", "attention.to_q.linear": "attn1.to_q", "attention.to_k.linear": "attn1.to_k",
        "attention.to_v.linear": "attn1.to_v", "attention.to_out": "attn1.to_out.0",
        "feed_forward.linear_in": "ff.net.0.proj", "feed_forward.linear_out": "ff.net.2",
    }  # fmt: skip
    weights = peer.state_dict()
    ours.load_state_dict(
        {f"{a}.{kind}": weights[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    )
    x, t, label = torch.randn(B, V, D), torch.tensor([3, 700]), torch.tensor([1, 9])
    vectors = peer.norm1.emb(t, label, hidden_dtype=torch.float32)
    output = ours(x, Conditioning(vectors[:, None]))
    assert relative_error(output, peer(x, timestep=t, class_labels=label)) < TOLERANCE


def small_sd3(**changes: object) -> nn.Module:
    settings = {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
        "pos_embed_max_size": 12,
        "attention_head_dim": D // N, "num_attention_heads": N, "caption_projection_dim": D, "joint_attention_dim": 12,
        "pooled_projection_dim": 10, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1),
    }  # fmt: skip
    return with_random_weights(SD3Transformer2DModel(**{**settings, **changes}))


@pytest.mark.parametrize("changes", [{}, {"qk_norm": None, "dual_attention_layers": ()}], ids=["SD3.5", "SD3"])
def test_a_whole_model_on_one_frame(changes: dict[str, object]) -> None:
    peer = small_sd3(**changes)
    ours = VideoDiT.from_sd3(peer)
    latents, text = torch.randn(B, 4, 1, 10, 14), random_text(B, L, 12)
    t = torch.rand(B) / 8  # diffusers embeds 1000 t in float32, which rounds the angles of later ones to 1e-5 or more
    text = text._replace(pooled=torch.randn(B, 10))
    mine, theirs = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    output = ours(mine, t, text)
    expected = peer(theirs[:, :, 0], text.embeds, text.pooled, 1000 * t).sample
    assert relative_error(output[:, :, 0], expected) < TOLERANCE
    weigh = torch.randn_like(expected)
    (output[:, :, 0] * weigh).sum().backward()
    (expected * weigh).sum().backward()
    assert relative_error(mine.grad, theirs.grad) < TOLERANCE
    of_peer = {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}
    gradients, weights = renamed(Checkpoint(peer.config, of_peer)), dict(ours.named_parameters())
    assert {name for name in weights if "temporal" not in name} == gradients.keys()
    assert_close_by_layer({name: weights[name].grad for name in gradients}, gradients)


def test_frame_by_frame_a_fresh_video_model_equals_the_image_model() -> None:
    peer = small_sd3()
    ours = VideoDiT.from_sd3(peer, num_frames=3)
    latents, t, text = torch.randn(B, 4, 3, 10, 14), torch.rand(B), random_text(B, L, 12)
    text = text._replace(pooled=torch.randn(B, 10))
    with torch.no_grad():
        output = ours(latents, t, text)
        frames = [peer(latents[:, :, f], text.embeds, text.pooled, 1000 * t).sample for f in range(3)]
    assert relative_error(output, torch.stack(frames, dim=2)) < TOLERANCE


def test_a_checkpoint_folder_is_read_like_the_module(tmp_path: Path) -> None:
    peer = small_sd3()
    peer.save_pretrained(tmp_path / "pipeline/transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "pipeline/transformer").glob("*.safetensors"))) > 1
    expected = VideoDiT.from_sd3(peer).state_dict()
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline/transformer"):
        weights = VideoDiT.from_sd3(folder).state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected if "blocks" not in name)
        assert all(torch.equal(weights[name], expected[name]) for name in expected if "backbone.blocks" in name)


def test_ends_of_another_width_start_afresh_and_the_rest_is_kept() -> None:
    peer = small_sd3()
    ours = VideoDiT.from_sd3(peer, channels=3, text_width=7)
    same = VideoDiT.from_sd3(peer).state_dict()
    changed = {name for name, tensor in ours.state_dict().items() if tensor.shape != same[name].shape}
    assert changed == {"video_embedder.weight", "text_embedder.weight", "proj_out.weight", "proj_out.bias"}
    assert all(
        torch.equal(tensor, same[name])
        for name, tensor in ours.state_dict().items()
        if name not in changed and "temporal" not in name
    )


def test_a_config_from_before_qk_norm_and_dual_attention_is_read(tmp_path: Path) -> None:
    """As that of Stable Diffusion 3 medium, which diffusers 0.29 wrote."""
    peer = small_sd3(qk_norm=None, dual_attention_layers=())
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["qk_norm"], config["dual_attention_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = VideoDiT.from_sd3(peer).state_dict()
    weights = VideoDiT.from_sd3(tmp_path).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected if "temporal" not in name)

    (tmp_path / "config.json").write_text(json.dumps({**config, "qk_norm": "l2"}))
    with pytest.raises(UserError, match=r"qk_norm is l2 in the checkpoint's config.json"):
        VideoDiT.from_sd3(tmp_path)


def test_what_is_no_sd3_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        VideoDiT.from_sd3(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(UserError, match="is of a FluxTransformer2DModel"):
        VideoDiT.from_sd3(tmp_path)
    small_sd3().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = small_sd3().state_dict()
    weights.pop("transformer_blocks.1.ff.net.2.weight")
    save_file(weights, file)
    with pytest.raises(UserError, match=r"does not fit its config: 1 weights, such as .*blocks.1.video.feed_forward"):
        VideoDiT.from_sd3(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"has no \*.safetensors"):
        VideoDiT.from_sd3(tmp_path)
