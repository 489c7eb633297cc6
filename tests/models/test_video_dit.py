from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from random_inputs import random_clip_info, random_text
from torch import Tensor, nn

from video_dit.config import Config, ModelConfig, load_config
from video_dit.contracts import ClipInfo, EncodedShape, TextCondition
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.errors import UserError
from video_dit.models import VideoDiT, build_model
from video_dit.models.context import Context
from video_dit.models.joint_blocks import JointTransformerBlock, SingleStreamBlock
from video_dit.ops.normalization import Conditioning
from video_dit.ops.position import rotary_embedding
from video_dit.shapes import Grid

CHANNELS, TEXT_WIDTH, L = 3, 6, 5
GRID = (3, 4, 6)
"""Of the latents; 3 x 2 x 3 tokens."""

JOINT = {
    "mmdit": {},
    "one stream at the end": {"single_stream_blocks": 1},
    "three streams": {"text_split": 2},
    "dual attention": {"dual_attention_blocks": [0]},
    "dit, in context": {"name": "dit", "dit_conditioning": "in_context"},
    "dit, cross-attention": {"name": "dit", "dit_conditioning": "cross_attention"},
    "dit, adaln": {"name": "dit", "dit_conditioning": "adaln"},
    "dit, adaln-zero": {"name": "dit"},
    "cross_dit": {"name": "cross_dit"},
    "u_vit": {"name": "u_vit", "depth": 3},
}
WINDOW = {"attention_pattern": "window", "window_tile": [1, 2, 1], "window_size": [1, 1, 3]}
PATTERNS = {
    "factorised": {"attention_pattern": "factorised"},
    "factorised, dual attention": {"attention_pattern": "factorised", "dual_attention_blocks": [0]},
    "factorised dit": {"name": "dit", "attention_pattern": "factorised"},
    "factorised cross_dit": {"name": "cross_dit", "attention_pattern": "factorised"},
    "window": WINDOW,
    "window, one stream at the end": {**WINDOW, "single_stream_blocks": 1},
    "window dit": {**WINDOW, "name": "dit"},
    "window cross_dit": {**WINDOW, "name": "cross_dit"},
}
ALL = {**JOINT, **PATTERNS}
ADAPTIVE = {
    name: keys for name, keys in ALL.items() if name not in ("dit, in context", "dit, cross-attention", "u_vit")
}


def tiny_model(**keys: object) -> VideoDiT:
    torch.manual_seed(0)
    config = ModelConfig(**{"patch_size": (1, 2, 2), "hidden_size": 24, "depth": 2, "num_heads": 2, **keys})  # type: ignore[arg-type]
    return VideoDiT(
        config, channels=CHANNELS, text_width=TEXT_WIDTH, pooled_width=TEXT_WIDTH, trained_grid=Grid(3, 2, 3)
    )


def with_random_weights(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def random_batch(batch: int, lengths: list[int] | None = None) -> tuple[Tensor, Tensor, TextCondition]:
    torch.manual_seed(1)
    return torch.randn(batch, CHANNELS, *GRID), torch.rand(batch), random_text(batch, L, TEXT_WIDTH, lengths)


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_a_fresh_model_predicts_zero(keys: dict) -> None:
    assert not tiny_model(**keys)(*random_batch(2)).any()


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_every_parameter_gets_a_gradient(keys: dict) -> None:
    """A parameter without one breaks ZeRO; the last block's text output would be such a parameter."""
    model = with_random_weights(tiny_model(**keys))
    model(*random_batch(2)).square().sum().backward()
    unused = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert unused == []


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_a_padded_prompt_is_the_same_prompt(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys))
    latents, t, text = random_batch(2)
    padding = torch.full((2, 4, TEXT_WIDTH), 9.0)
    padded = TextCondition(
        torch.cat((text.embeds, padding), 1), torch.cat((text.mask, torch.zeros(2, 4).bool()), 1), text.pooled
    )
    torch.testing.assert_close(model(latents, t, padded), model(latents, t, text))


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_samples_do_not_see_each_other(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys))
    latents, t, text = random_batch(3, lengths=[5, 2, 1])
    together = model(latents, t, text)
    for row in range(3):
        alone = model(latents[row : row + 1], t[row : row + 1], TextCondition(*(x[row : row + 1] for x in text)))
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("change", ["latents", "t", "embeds", "pooled"])
@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_the_output_depends_on_every_input(keys: dict, change: str) -> None:
    model = with_random_weights(tiny_model(**keys))
    latents, t, text = random_batch(1)
    before = model(latents, t, text)
    if change == "latents":
        latents = latents + 0.1
    elif change == "t":
        t = t / 2
    elif change == "embeds":
        text = text._replace(embeds=text.embeds.roll(1, -1))
    else:
        text = text._replace(pooled=text.pooled + 0.1)
    assert not torch.allclose(model(latents, t, text), before)


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_the_same_weights_take_any_grid(keys: dict) -> None:
    model = tiny_model(**keys)
    _, t, text = random_batch(1)
    for grid in [(1, 2, 2), (3, 4, 6), (5, 6, 10)]:
        latents = torch.randn(1, CHANNELS, *grid)
        assert model(latents, t, text).shape == latents.shape


@pytest.mark.parametrize("keys", JOINT.values(), ids=JOINT)
def test_permuting_tokens_with_their_positions_permutes_the_output(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys))
    video, text, positions = torch.randn(2, 18, 24), torch.randn(2, L, 24), torch.rand(18, 3) * 5
    conditioning = Conditioning(torch.randn(2, 1, 24))
    order = torch.randperm(18)

    def run(index: Tensor) -> Tensor:
        rotary = rotary_embedding(positions[index], (4, 4, 4), (100.0, 100.0, 100.0))
        return model.backbone(video[:, index], text, Context(conditioning, conditioning, rotary=rotary))

    torch.testing.assert_close(run(order), run(torch.arange(18))[:, order])


PACKED = {name: keys for name, keys in JOINT.items() if "text_split" not in keys}


@pytest.mark.parametrize("keys", PACKED.values(), ids=PACKED)
def test_packed_clips_are_the_same_as_alone(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys, conditions=["size"]))
    torch.manual_seed(1)
    clips = [torch.randn(CHANNELS, *grid) for grid in [(3, 4, 6), (1, 2, 2), (2, 6, 4)]]
    t, text, info = torch.rand(3), random_text(3, L, TEXT_WIDTH, lengths=[5, 2, 4]), random_clip_info(3)
    for row, packed in enumerate(model.forward_packed(clips, t, text, info)):
        one = slice(row, row + 1)
        alone = model(
            clips[row][None],
            t[one],
            TextCondition(*(x[one] for x in text)),
            ClipInfo(*(x[one] for x in info)),
        )
        torch.testing.assert_close(packed, alone[0])


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_chunks_and_recomputation_change_neither_values_nor_gradients(keys: dict) -> None:
    plain = with_random_weights(tiny_model(**keys))
    saving = tiny_model(**keys, feed_forward_chunk_size=7, recompute_blocks=2)
    saving.load_state_dict(plain.state_dict())
    batch = random_batch(2)
    outputs = [model(*batch) for model in (plain, saving)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().mean().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("keys", ADAPTIVE.values(), ids=ADAPTIVE)
def test_one_timestep_for_all_frames_is_the_same_for_each(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys))
    latents, t, text = random_batch(2)
    torch.testing.assert_close(model(latents, t[:, None].expand(2, 3), text), model(latents, t, text))
    assert not torch.allclose(model(latents, t[:, None] * torch.tensor([1.0, 0.5, 0.0]), text), model(latents, t, text))


@pytest.mark.parametrize("keys", ADAPTIVE.values(), ids=ADAPTIVE)
def test_given_frames_have_timestep_zero_and_are_marked(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys, given_frames=True))
    plain = tiny_model(**keys)
    latents, t, text = random_batch(2)
    given = torch.tensor([[True, False, False], [False, False, True]])

    weights = dict(model.state_dict())
    per_cell = weights["video_embedder.weight"].view(24, 2 * 2, CHANNELS + 1)
    weights["video_embedder.weight"] = per_cell[..., :CHANNELS].reshape(24, -1)
    plain.load_state_dict(weights)
    per_cell[..., CHANNELS] = 0  # a view: now the mask channel is not read
    t_per_frame = torch.where(given, 0.0, t[:, None])
    torch.testing.assert_close(model(latents, t, text, given=given), plain(latents, t_per_frame, text))

    nn.init.normal_(model.video_embedder.weight)
    marked, unmarked = model(latents, t_per_frame, text, given=given), model(latents, t_per_frame, text)
    assert not torch.allclose(marked, unmarked)


def test_a_token_of_given_and_other_frames_keeps_its_timestep() -> None:
    model = with_random_weights(tiny_model(patch_size=(3, 2, 2), given_frames=True))
    latents, t, text = random_batch(1)
    given = torch.tensor([[True, False, False]])
    assert torch.equal(model._mark_given(latents, t[:, None], given)[1], t[:, None])
    assert not torch.equal(model(latents, t, text, given=given), model(latents, t, text))


@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_tuples_that_are_rebuilt_on_their_way_to_a_block_change_nothing(keys: dict) -> None:
    """As ZeRO-3 does to gather the weights: the parts of a Context are equal then, and no longer the same object."""
    model = with_random_weights(tiny_model(**keys))
    batch = random_batch(2)
    expected = model(*batch)

    def rebuild(_: nn.Module, arguments: tuple) -> tuple:
        video, text, context = arguments
        conditionings = (Conditioning(*context.video_conditioning), Conditioning(*context.text_conditioning))
        return video, text, Context(*conditionings, *context[2:])

    model.backbone.register_forward_pre_hook(rebuild)
    for block in model.backbone.blocks:
        if isinstance(block, (JointTransformerBlock, SingleStreamBlock)):
            block.register_forward_pre_hook(rebuild)
    assert torch.equal(model(*batch), expected)


def test_a_window_that_covers_the_clip_is_full_attention() -> None:
    full = with_random_weights(tiny_model())
    latents, t, text = random_batch(2, lengths=[5, 3])
    for tile in [(1, 1, 1), (1, 2, 2), (2, 1, 2), (3, 2, 3)]:
        window = tiny_model(attention_pattern="window", window_tile=tile, window_size=(5, 3, 5))
        window.load_state_dict(full.state_dict())
        torch.testing.assert_close(window(latents, t, text), full(latents, t, text))


@pytest.mark.parametrize(("name", "num_seen"), [("mmdit", 3), ("dit", 3), ("cross_dit", 3)])
def test_a_window_sees_its_neighbours_alone(name: str, num_seen: int) -> None:
    """One block, windows of three frames: at the ends of the clip they are shifted inwards, and still see three."""
    keys = {"attention_pattern": "window", "window_tile": (1, 2, 3), "window_size": (3, 1, 1)}
    model = with_random_weights(tiny_model(name=name, depth=1, **keys))
    latents, t, text = torch.randn(1, CHANNELS, 6, 4, 6), torch.rand(1), random_text(1, L, TEXT_WIDTH)
    before = model(latents, t, text)
    for frame, seen_by in {0: {0, 1}, 2: {0, 1, 2, 3}, 3: {2, 3, 4, 5}, 5: {4, 5}}.items():
        changed = latents.clone()
        changed[:, :, frame] += 1
        after = model(changed, t, text)
        different = {f for f in range(6) if not torch.allclose(after[:, :, f], before[:, :, f])}
        assert different == seen_by


def test_factorised_blocks_see_their_frame_and_then_their_place() -> None:
    model = with_random_weights(tiny_model(attention_pattern="factorised", depth=1))
    latents, t, text = random_batch(1)
    before = model(latents, t, text)
    changed = latents.clone()
    changed[:, :, 0, :2, :2] += 1  # one token
    difference = (model(changed, t, text) - before).abs().amax((0, 1)) > 1e-6
    # Within the frame all see it; through time each place hands on what it saw.
    assert difference.all()

    nn.init.zeros_(model.backbone.temporal_blocks[0].norm.linear.weight)
    nn.init.zeros_(model.backbone.temporal_blocks[0].norm.linear.bias)
    difference = (model(changed, t, text) - model(latents, t, text)).abs().amax((0, 1, 3, 4)) > 1e-6
    assert difference.tolist() == [True, False, False]


def test_u_vit_s_long_skips_join_mirror_images() -> None:
    """Layers that take the skip alone undo the blocks between: the first block's output reaches the last."""
    backbone = with_random_weights(tiny_model(name="u_vit", depth=5)).backbone
    for layer in backbone.skips:
        layer.weight.data, layer.bias.data = torch.cat((torch.zeros(24, 24), torch.eye(24)), dim=1), torch.zeros(24)
    video, text, conditioning = torch.randn(1, 6, 24), torch.randn(1, L, 24), Conditioning(torch.randn(1, 1, 24))
    first, last = backbone.blocks[0], backbone.blocks[-1]
    expected = last(first(torch.cat((video, text), dim=1), conditioning), conditioning)[:, :6]
    torch.testing.assert_close(backbone(video, text, Context(conditioning, conditioning)), expected)


@pytest.mark.parametrize("condition", ["fps", "size", "crop"])
def test_conditions_are_read(condition: str) -> None:
    model = with_random_weights(tiny_model(conditions=[condition]))
    latents, t, text = random_batch(1)
    info = random_clip_info(1)
    before = model(latents, t, text, info)
    for name in ("fps", "size", "crop"):
        other = info._replace(**{name: getattr(info, name) + 8})
        assert torch.allclose(model(latents, t, text, other), before) == (name != condition)


@pytest.mark.parametrize(
    "keys",
    [{"rotary": True}, {"spatial_position": "sincos"}, {"spatial_position": "learned"}],
    ids=["rotary", "sincos", "learned"],
)
def test_every_position_embedding_sees_where_a_token_stands(keys: dict) -> None:
    """Without one, two patches that change places in the input would change places in the output."""
    none = {"rotary": False, "spatial_position": "none", "temporal_position": "none"}
    latents, t, text = random_batch(1)
    swapped = torch.cat((latents[..., 2:4], latents[..., :2], latents[..., 4:]), dim=-1)
    for settings, blind in ((none, True), ({**none, **keys}, False)):
        model = with_random_weights(tiny_model(**settings))
        output = model(latents, t, text)
        output_swapped = torch.cat((output[..., 2:4], output[..., :2], output[..., 4:]), dim=-1)
        assert torch.allclose(model(swapped, t, text), output_swapped, atol=1e-3) == blind


@pytest.mark.parametrize("keys", PATTERNS.values(), ids=PATTERNS)
def test_sampling_leaves_nothing_behind_that_training_trips_over(keys: dict) -> None:
    """The masks of a grid are remembered, and tensors made in inference mode cannot be saved for a backward pass."""
    model = with_random_weights(tiny_model(**keys))
    torch.manual_seed(1)
    batch = torch.randn(2, CHANNELS, 3, 8, 6), torch.rand(2), random_text(2, L, TEXT_WIDTH)
    with torch.inference_mode():
        expected = model(*batch)
    output = model(*batch)
    output.square().mean().backward()
    assert torch.equal(output, expected)


def test_what_does_not_fit_is_refused() -> None:
    latents, t, text = random_batch(1)
    with pytest.raises(UserError, match=r"height is 5.*use 4 or 6"):
        tiny_model()(torch.randn(1, CHANNELS, 2, 5, 4), t, text)
    with pytest.raises(UserError, match=r"there are 2 timesteps for 3 frames of tokens: give 1 or 3"):
        tiny_model()(latents, t[:, None].expand(1, 2), text)
    with pytest.raises(UserError, match=r"frames are given to a model .* model.given_frames = false"):
        tiny_model()(latents, t, text, given=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(UserError, match=r"timestep per frame needs adaptive norms, which model.name = u_vit lacks"):
        tiny_model(name="u_vit")(latents, t[:, None].expand(1, 3), text)
    for keys in ({"attention_pattern": "factorised"}, {"given_frames": True}, {"text_split": 2}):
        with pytest.raises(UserError, match=r"packed batches need model.attention_pattern = full"):
            tiny_model(**keys).forward_packed([latents[0]], t, text)
    with pytest.raises(UserError, match=r"spatial_position is learned for 2 x 3 tokens, and this clip has 4 x 3"):
        tiny_model(spatial_position="learned")(torch.randn(1, CHANNELS, 3, 8, 6), t, text)
    with pytest.raises(UserError, match=r"temporal_position is learned for 3 tokens, and this clip has 4"):
        tiny_model(temporal_position="learned")(torch.randn(1, CHANNELS, 4, 4, 6), t, text)


WAN = SimpleNamespace(stride=(4, 8, 8), channels=16, causal=True, frame_step=4)
SD3_TEXT = SimpleNamespace(max_length=77 + 256, width=4096, pooled_width=768 + 1280, segments=())
"""What the pretrained encoders of the shipped configs make; their weights are not here to ask."""

CONFIGS = [
    file
    for file in sorted((Path(__file__).parents[2] / "configs").glob("**/*.toml"))
    if file.parent.name != "ablations"  # which are no configs; tests/scripts/test_ablate.py builds their models
]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_config_builds_on_the_meta_device(file: Path) -> None:
    config = load_config(file)
    if "model" not in config.model_fields_set:  # it is for preprocessing, and fits models with patches of one frame
        config = load_config(file, ["model.patch_size=[1, 4, 4]"])
    autoencoder = WAN if config.autoencoder.model else build_autoencoder(config.autoencoder)
    text_encoder = SD3_TEXT if config.text_encoder.models else build_text_encoder(config.text_encoder)
    with torch.device("meta"):
        model = build_model(config, EncodedShape.of(config.data.grid, autoencoder, text_encoder))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(("preset", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_presets_have_the_sizes_that_the_paper_gives(preset: str, millions: int) -> None:
    """Table 1 of arXiv 2212.09748, whose models have a class embedding where these have text: up to 2% apart."""
    config = Config(model={"preset": preset, "name": "dit", "patch_size": (2, 2, 2), "qk_norm": "none"})  # type: ignore[arg-type]
    with torch.device("meta"):
        model = VideoDiT(config.model, channels=4, text_width=64, pooled_width=64, trained_grid=Grid(1, 16, 16))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("keys", ALL.values(), ids=ALL)
def test_on_a_gpu_the_output_is_that_of_the_cpu(keys: dict) -> None:
    model = with_random_weights(tiny_model(**keys))
    latents, t, text = random_batch(2, lengths=[5, 3])
    expected = model(latents, t, text)
    output = model.cuda()(latents.cuda(), t.cuda(), text.to("cuda"))
    torch.testing.assert_close(output.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "sdpa", "flex", "xformers"])
def test_on_a_gpu_in_bf16_packed_clips_are_the_same_as_alone(backend: str) -> None:
    """Heads of 64, whose kernels all backends have."""
    keys = {"hidden_size": 128, "attention_backend": backend}
    model = with_random_weights(tiny_model(**keys)).to("cuda", torch.bfloat16)
    clips = [torch.randn(CHANNELS, *grid).to("cuda", torch.bfloat16) for grid in [(3, 4, 6), (1, 2, 2), (2, 6, 4)]]
    t, text = torch.rand(3).cuda(), random_text(3, L, TEXT_WIDTH, lengths=[5, 2, 4]).to("cuda")
    text = text._replace(embeds=text.embeds.bfloat16(), pooled=text.pooled.bfloat16())
    for row, packed in enumerate(model.forward_packed(clips, t, text)):
        one = slice(row, row + 1)
        alone = model(clips[row][None], t[one], TextCondition(*(x[one] for x in text)))[0]
        error = (packed - alone).float().norm() / alone.float().norm()
        assert float(error.detach()) < 5e-2
