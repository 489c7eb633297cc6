import pytest
import torch
from random_inputs import random_text
from torch import nn

from video_dit.contracts import TextCondition
from video_dit.errors import UserError
from video_dit.models.mmdit import MMDiT


def tiny_model(**changes: object) -> MMDiT:
    torch.manual_seed(0)
    settings = {"channels": 3, "text_width": 6, "pooled_width": 6, "patch_size": (1, 2, 2), "hidden_size": 24}
    return MMDiT(**{**settings, "depth": 2, "num_heads": 2, **changes})  # type: ignore[arg-type]


def with_random_weights(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_a_fresh_model_predicts_zero() -> None:
    assert not tiny_model()(torch.randn(2, 3, 2, 4, 4), torch.rand(2), random_text(2, 5, 6)).any()


def test_every_parameter_gets_a_gradient() -> None:
    """A parameter without one breaks ZeRO; the last block's text output would be such a parameter."""
    model = with_random_weights(tiny_model())
    model(torch.randn(2, 3, 2, 4, 4), torch.rand(2), random_text(2, 5, 6)).square().sum().backward()
    unused = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert unused == []


def test_a_padded_prompt_is_the_same_prompt() -> None:
    model = with_random_weights(tiny_model())
    latents, t, text = torch.randn(2, 3, 2, 4, 4), torch.rand(2), random_text(2, 5, 6)
    padding = torch.full((2, 4, 6), 9.0)
    padded = TextCondition(
        torch.cat((text.embeds, padding), 1), torch.cat((text.mask, torch.zeros(2, 4).bool()), 1), text.pooled
    )
    torch.testing.assert_close(model(latents, t, padded), model(latents, t, text))


def test_samples_do_not_see_each_other() -> None:
    model = with_random_weights(tiny_model())
    latents, t, text = torch.randn(3, 3, 2, 4, 4), torch.rand(3), random_text(3, 5, 6, lengths=[5, 2, 1])
    together = model(latents, t, text)
    for row in range(3):
        alone = model(latents[row : row + 1], t[row : row + 1], TextCondition(*(x[row : row + 1] for x in text)))
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("change", ["latents", "t", "embeds", "pooled", "order of words"])
def test_the_output_depends_on_every_input(change: str) -> None:
    model = with_random_weights(tiny_model())
    latents, t, text = torch.randn(1, 3, 2, 4, 4), torch.rand(1), random_text(1, 5, 6)
    before = model(latents, t, text)
    if change == "latents":
        latents = latents + 0.1
    elif change == "t":
        t = t / 2
    elif change == "embeds":
        text = text._replace(embeds=text.embeds.roll(1, -1))
    elif change == "pooled":
        text = text._replace(pooled=text.pooled + 0.1)
    else:  # text tokens carry no position of their own: the encoder's embeddings do
        text = text._replace(embeds=text.embeds.flip(1))
        torch.testing.assert_close(model(latents, t, text), before)
        return
    assert not torch.allclose(model(latents, t, text), before)


def test_the_same_weights_take_any_grid() -> None:
    model = tiny_model()
    for grid in [(1, 2, 2), (3, 4, 6)]:
        latents = torch.randn(1, 3, *grid)
        assert model(latents, torch.rand(1), random_text(1, 5, 6)).shape == latents.shape


def test_refusals_name_the_key() -> None:
    with pytest.raises(UserError, match=r"model.num_heads = 5"):
        tiny_model(num_heads=5)
    with pytest.raises(UserError, match=r"model.hidden_size / model.num_heads must be even"):
        tiny_model(hidden_size=21, num_heads=3)
    with pytest.raises(UserError, match=r"model.hidden_size is 18, and must be a multiple of 4"):
        tiny_model(hidden_size=18, num_heads=3)
    with pytest.raises(UserError, match=r"height is 5.*use 4 or 6"):
        tiny_model()(torch.randn(1, 3, 2, 5, 4), torch.rand(1), random_text(1, 5, 6))


@pytest.mark.parametrize("position_embedding", ["rotary", "sincos", "both"])
def test_every_position_embedding_sees_where_a_token_stands(position_embedding: str) -> None:
    """Without one, two patches that change places in the input would change places in the output."""
    model = with_random_weights(tiny_model(position_embedding=position_embedding))
    latents, t, text = torch.randn(1, 3, 2, 4, 6), torch.rand(1), random_text(1, 5, 6)
    swapped = torch.cat((latents[..., 2:4], latents[..., :2], latents[..., 4:]), dim=-1)
    output = model(latents, t, text)
    output_swapped = torch.cat((output[..., 2:4], output[..., :2], output[..., 4:]), dim=-1)
    assert not torch.allclose(model(swapped, t, text), output_swapped, atol=1e-3)
