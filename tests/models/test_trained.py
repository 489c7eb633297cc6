"""Which weights are trained, and what adapters do, against PEFT and against sums by hand."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from random_inputs import random_text
from safetensors.torch import save_file

from video_dit.config import Config, LoraConfig, load_config
from video_dit.errors import UserError
from video_dit.models import VideoDiT
from video_dit.models.adapters import write_adapter_config
from video_dit.models.trained import choose_trained, named_weights, parameter_counts
from video_dit.models.weights import PEFT_PREFIX, adapted_layers, merge_adapters, split_adapters
from video_dit.shapes import Grid

SMALL = ("model.hidden_size=24", "model.depth=2", "model.num_heads=2", "model.patch_size=[1,2,2]")
LORA = ("lora.rank=3", "lora.alpha=6", "training.initial_weights=model.safetensors")


def small_model(*keys: str) -> tuple[VideoDiT, Config]:
    """With random weights, zero nowhere."""
    config = load_config(None, [*SMALL, *keys])
    torch.manual_seed(0)
    model = VideoDiT(config.model, channels=4, text_width=8, pooled_width=8, trained_grid=Grid(2, 2, 2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model, config


def trained(model: VideoDiT) -> set[str]:
    return {name for name, weight in named_weights(model) if weight.requires_grad}


@torch.no_grad()
def output(model: VideoDiT) -> torch.Tensor:
    torch.manual_seed(1)
    return model(torch.randn(2, 4, 2, 4, 4), torch.rand(2), random_text(2, 5, 8))


def whole(model: VideoDiT) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in named_weights(model)}


def with_adapters(*keys: str) -> tuple[VideoDiT, Config]:
    """As after some training, when B is no longer zero."""
    model, config = small_model(*LORA, *keys)
    choose_trained(model, config)
    for name, weight in named_weights(model):
        if name.endswith(".lora_B.weight"):
            torch.nn.init.normal_(weight, std=0.2)
    return model, config


def test_patterns_choose_what_is_trained() -> None:
    for keys, expected in {
        (): lambda name: True,
        ("training.freeze=['*.bias','text_embedder.*']",): lambda name: (
            not (name.endswith(".bias") or name.startswith("text_embedder."))
        ),
        ("training.train_only=['backbone.*']", "training.freeze=['*.norm.*']"): lambda name: (
            name.startswith("backbone.") and ".norm." not in name
        ),
        LORA: lambda name: ".lora_" in name,
        (*LORA, "training.train_only=['video_embedder.*']"): lambda name: (
            ".lora_" in name or name.startswith("video_embedder.")
        ),
    }.items():
        model, config = small_model(*keys)
        choose_trained(model, config)
        assert trained(model) == {name for name, _ in named_weights(model) if expected(name)}, keys
        assert trained(model)


def test_adapters_are_where_the_patterns_say_and_of_the_rank() -> None:
    model, config = small_model(*LORA)
    choose_trained(model, config)
    layers = adapted_layers(dict(named_weights(model)))
    # the last block's text has keys and values alone
    assert len(layers) == 8 + 6
    assert "backbone.blocks.0.video.to_q.linear" in layers
    assert parameter_counts(model).trained == len(layers) * 2 * 3 * 24
    for backbone in ("u_vit", "dit", "cross_dit"):
        model, config = small_model(*LORA, f"model.name={backbone}", "model.depth=3")
        choose_trained(model, config)
        queries = [name for name, _ in model.named_modules() if name.endswith("to_q.linear")]
        assert set(queries) < set(adapted_layers(dict(named_weights(model)))), backbone


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            ("training.freeze=['backbone.blocks.7.video.to_q.linear.bias']",),
            r"training.freeze has 'backbone.blocks.7.*names near it are backbone.blocks.\d.video.to_q.linear.bias",
        ),
        (("training.train_only=['backbone.*','nothing']",), r"training.train_only has 'nothing', which matches none"),
        ((*LORA, "lora.target_modules=['*.norm_q']"), r"lora.target_modules has '\*.norm_q', which matches none"),
        (("training.freeze=['*']",), r"leave no weight to train"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told(keys: tuple[str, ...], said: str) -> None:
    model, config = small_model(*keys)
    with pytest.raises(UserError, match=said):
        choose_trained(model, config)


def test_adapters_need_a_model() -> None:
    with pytest.raises(UserError, match=r"lora.rank is 3, and adapters need a model to adapt: name one with"):
        load_config(None, ["lora.rank=3"])


def test_adapters_that_are_zero_change_nothing() -> None:
    """Bit for bit, beside the layers and merged."""
    plain, _ = small_model()
    model, config = small_model(*LORA)
    choose_trained(model, config)
    assert torch.equal(output(model), output(plain))
    merged = merge_adapters(whole(model), config.lora)
    assert merged.keys() == plain.state_dict().keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in plain.state_dict().items())


def test_merged_weights_do_what_adapters_beside_them_do() -> None:
    model, config = with_adapters()
    beside = output(model)
    plain, _ = small_model()
    assert not torch.allclose(output(plain), beside, atol=1e-2)
    plain.load_state_dict(merge_adapters(whole(model), config.lora))
    torch.testing.assert_close(output(plain), beside, atol=1e-4, rtol=1e-4)


def test_peft_reads_what_is_written(tmp_path: Path) -> None:
    model, config = with_adapters()
    _, adapters = split_adapters(whole(model))
    save_file({PEFT_PREFIX + name: x for name, x in adapters.items()}, tmp_path / "adapter_model.safetensors")
    write_adapter_config(tmp_path, adapted_layers(adapters), config.lora)
    plain, _ = small_model()
    theirs = PeftModel.from_pretrained(plain, tmp_path)
    assert torch.equal(output(theirs), output(model))
    merged = merge_adapters(whole(model), config.lora)
    for name, module in theirs.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            module.merge()
            torch.testing.assert_close(module.base_layer.weight, merged[f"{name}.weight"], atol=1e-6, rtol=1e-6)


def test_adapters_of_another_model_are_refused() -> None:
    model, config = with_adapters()
    weights = whole(model)
    with pytest.raises(UserError, match=r"adapter of backbone.blocks.0.texts.0.to_k.linear that fits no such layer"):
        merge_adapters(
            {name: x for name, x in weights.items() if name.startswith("backbone.blocks.0.texts.0.to_k.linear.lora")},
            config.lora,
        )
    assert merge_adapters({"a.weight": torch.ones(2, 2)}, LoraConfig()).keys() == {"a.weight"}


def test_gradients_pass_frozen_blocks_that_are_computed_again() -> None:
    """Of adapters in recomputed blocks, and of an embedder below frozen ones, as without recomputation."""
    gradients = []
    for recomputed in (0, 2):
        model, _ = with_adapters("training.train_only=['video_embedder.*']", f"model.recompute_blocks={recomputed}")
        torch.manual_seed(1)
        model(torch.randn(2, 4, 2, 4, 4), torch.rand(2), random_text(2, 5, 8)).square().mean().backward()
        gradients.append({name: weight.grad for name, weight in named_weights(model) if weight.grad is not None})
        assert gradients[-1].keys() == trained(model)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
