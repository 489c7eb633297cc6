"""Captioners of transformers, on tiny models with random weights."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data.stages.captioners import build_captioner
from data.stages.captioners.contract import Captioner
from data.stages.failure import ClipError
from data.stages.frames import ClipFrames
from video_dit.config import CaptionerConfig
from video_dit.errors import UserError

SPECIAL = ["[PAD]", "[END]", "[START]", "[UNK]", "<image>", "<video>"]
WORDS = [*SPECIAL, "user", "bot", "describe", "this", "2", *(f"word{number}" for number in range(40))]
SIDE, PATCH, NEW_TOKENS = 16, 8, 12
CPU = torch.device("cpu")
TEMPLATE = (
    "{% for message in messages %}user {% for part in message.content %}{% if part.type == 'text' %} {{ part.text }}"
    "{% else %} <{{ part.type }}> {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} bot {% endif %}"
)
TEXT = {
    "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": PATCH,
}  # fmt: skip
IMAGES = {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word is a token."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing("[START] $A", None, [("[START]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]", bos_token="[START]",
        cls_token="[START]", sep_token="[END]", additional_special_tokens=["<image>", "<video>"],
    )  # fmt: skip


def save(folder: Path, model: transformers.PreTrainedModel, processor: transformers.ProcessorMixin) -> str:
    """With matrices that are not small, so that captions differ, and special tokens that are never likely."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.6)
        if len(parameter) == len(WORDS):
            parameter.data[: len(SPECIAL)] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def llava(folder: Path, template: str | None = TEMPLATE, positions: int = 128) -> str:
    """Sees images, each of which is a place in the text."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT, max_position_embeddings=positions),
        image_token_index=WORDS.index("<image>"),
        vision_feature_layer=-1,
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(**IMAGES), tokenizer(), patch_size=PATCH, chat_template=template,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return save(folder, transformers.LlavaForConditionalGeneration(config), processor)


def blip(folder: Path) -> str:
    """Sees one image, and is asked nothing."""
    text = {**TEXT, "encoder_hidden_size": 24, "max_position_embeddings": 40, "sep_token_id": 1, "projection_dim": 16}
    config = transformers.BlipConfig(text_config=text, vision_config={**VISION, "projection_dim": 16})
    processor = transformers.BlipProcessor(
        transformers.BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer()
    )
    return save(folder, transformers.BlipForConditionalGeneration(config), processor)


def git(folder: Path) -> str:
    """Likewise; a decoder that sees the image before its own words."""
    config = transformers.GitConfig(
        vision_config=VISION, **{key: value for key, value in TEXT.items() if key != "vocab_size"},
        vocab_size=len(WORDS), max_position_embeddings=64,
    )  # fmt: skip
    processor = transformers.GitProcessor(transformers.CLIPImageProcessorPil(**IMAGES), tokenizer())
    return save(folder, transformers.GitForCausalLM(config), processor)


class FramesConfig(transformers.Qwen2VLConfig):
    model_type = "frames_vl"


class FramesModel(transformers.Qwen2VLForConditionalGeneration):
    config_class = FramesConfig


class FramesProcessor(transformers.Qwen2VLProcessor):
    """Qwen2-VL's, but that it needs no torchvision: a frame of a video is made as an image is."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_: object) -> None:
        self.image_token, self.video_token = "<image>", "<video>"
        self.image_token_id, self.video_token_id = (
            WORDS.index(token) for token in (self.image_token, self.video_token)
        )
        transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @property
    def video_processor(self) -> object:
        """Whose merge_size is asked for."""
        return self.image_processor

    def _process_videos(
        self, videos, do_sample_frames=True, video_metadata=None, **_: object
    ) -> tuple[dict, list[str]]:
        assert not do_sample_frames
        videos = [video for (video,) in videos]
        made = [self.image_processor(images(video), return_tensors="pt") for video in videos]
        grids = torch.stack([one.image_grid_thw[0] * torch.tensor([len(one.image_grid_thw), 1, 1]) for one in made])
        inputs = {"pixel_values_videos": torch.cat([one.pixel_values for one in made]), "video_grid_thw": grids}
        return inputs, [
            f"{data['fps']:g} {self.replace_video_token(inputs, index)}" for index, data in enumerate(video_metadata)
        ]


transformers.AutoConfig.register("frames_vl", FramesConfig)
transformers.AutoModelForImageTextToText.register(FramesConfig, FramesModel)
transformers.AutoProcessor.register(FramesConfig, FramesProcessor)

QWEN_IMAGES = {"size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}, "patch_size": 4}


def frames_vl(folder: Path, config_class: type = FramesConfig, model_class: type = FramesModel) -> str:
    """Sees videos, of any size: a larger one is more tokens."""
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    config = config_class(
        text_config={**TEXT, "num_key_value_heads": 2, "rope_parameters": rope, "max_position_embeddings": 128},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
        },
        image_token_id=WORDS.index("<image>"), video_token_id=WORDS.index("<video>"), pad_token_id=0, eos_token_id=1,
        bos_token_id=2,
    )  # fmt: skip
    processor = FramesProcessor(transformers.Qwen2VLImageProcessorPil(**QWEN_IMAGES), tokenizer(), TEMPLATE)
    return save(folder, model_class(config), processor)


def build(model: str, **keys: object) -> Captioner:
    table = {"prompt": "describe this", "num_frames": 3, "max_new_tokens": NEW_TOKENS, "dtype": "fp32", **keys}
    return build_captioner(CaptionerConfig(name="transformers", model=model, **table), CPU)  # type: ignore[arg-type]


def clips(rng: np.random.Generator, count: int = 5) -> list[ClipFrames]:
    """Noise of several sizes and brightnesses."""
    return [
        ClipFrames(rng.integers(0, 60 + 40 * index, (3, 20, 24 + 4 * index, 3), dtype=np.uint8), 1.5)
        for index in range(count)
    ]


def said_of(folder: str, inputs: transformers.BatchFeature) -> str:
    """By transformers' own greedy search, of one clip alone."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    text = transformers.AutoTokenizer.from_pretrained(folder).decode(tokens[0], skip_special_tokens=True)
    return " ".join(text.split())


def images(pixels: NDArray[np.uint8]) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in pixels]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [(TEMPLATE, "user <image> <image> <image> describe this bot"), (None, "<image> <image> <image> describe this")],
)
def test_frames_are_images_in_the_chat_template_or_before_the_prompt(
    template: str | None, prompt: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = llava(tmp_path, template)
    some = clips(rng)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    captions = build(folder, batch_size=2, prompt="describe this").caption(some)
    for clip, caption in zip(some, captions, strict=True):
        inputs = processor(images=images(clip.pixels), text=prompt, return_tensors="pt")
        question = processor.tokenizer.decode(inputs.input_ids[0], skip_special_tokens=True)
        assert f"{question} {caption}" == said_of(folder, inputs)
    assert len(set(captions)) > 2


@pytest.mark.parametrize("kind", [blip, git])
def test_captioners_of_images_see_the_middle_frame_and_no_prompt(
    kind: object, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = kind(tmp_path)  # type: ignore[operator]
    some = clips(rng)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    captions = build(folder, batch_size=2).caption(some)
    for clip, caption in zip(some, captions, strict=True):
        inputs = processor(images=images(clip.pixels)[1], return_tensors="pt")
        assert caption == said_of(folder, inputs)
    assert len(set(captions)) > 2


def test_frames_are_a_video_where_the_processor_takes_one(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = frames_vl(tmp_path)
    some = clips(rng)
    processor = FramesProcessor.from_pretrained(folder)
    captions = build(folder, batch_size=3).caption(some)
    lengths = set()
    for clip, caption in zip(some, captions, strict=True):
        inputs = processor(
            videos=[[clip.pixels]], text="user <video> describe this bot", return_tensors="pt", do_sample_frames=False,
            video_metadata=[{"fps": 2.0}],  # 3 frames in 1.5 seconds
        )  # fmt: skip
        question = processor.tokenizer.decode(inputs.input_ids[0], skip_special_tokens=True)
        assert f"{question} {caption}" == said_of(folder, inputs)
        lengths.add(inputs.input_ids.shape[1])
    assert len(set(captions)) > 2
    assert len(lengths) > 1  # what follows pads


@pytest.mark.parametrize("kind", [llava, frames_vl, blip, git])
def test_neighbours_in_a_batch_change_nothing(kind: object, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = kind(tmp_path)  # type: ignore[operator]
    some = clips(rng)
    together = build(folder, batch_size=5)
    captions = together.caption(some)
    assert together.caption(some) == captions
    assert build(folder, batch_size=1).caption(some) == captions
    assert together.caption(some[::-1]) == captions[::-1]


def test_a_clip_that_is_refused_costs_itself(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = frames_vl(tmp_path)
    captioner = build(folder, batch_size=8)
    some = clips(rng)
    long = ClipFrames(np.zeros((3, 4, 1000, 3), dtype=np.uint8), 1.0)  # Qwen takes aspects up to 200
    many = ClipFrames(np.zeros((9, 32, 32, 3), dtype=np.uint8), 1.0)
    captions = captioner.caption([some[0], long, some[1], many, some[2]])
    assert [captions[0], captions[2], captions[4]] == captioner.caption(some[:3])
    assert [type(caption) for caption in (captions[1], captions[3])] == [ClipError, ClipError]
    assert "does not take its frames: absolute aspect ratio must be smaller than 200" in str(captions[1])
    assert "150 tokens and 12 of a caption are more than the model's 128: lower captioner.num" in str(captions[3])


def test_a_captioner_that_says_nothing_gives_no_caption(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = llava(tmp_path)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    torch.nn.init.zeros_(model.lm_head.weight)  # all words are alike, and the first is padding
    model.save_pretrained(folder)
    (caption,) = build(folder).caption(clips(rng, 1))
    assert isinstance(caption, ClipError)
    assert str(caption) == "the captioner said nothing"


def test_bf16_captions_too(tmp_path: Path, rng: np.random.Generator) -> None:
    captioner = build(frames_vl(tmp_path), dtype="bf16", batch_size=2)
    captions = captioner.caption(clips(rng))
    assert all(isinstance(caption, str) for caption in captions)
    assert captioner.caption(clips(np.random.default_rng(0))) == captions


def test_memory_that_is_too_small_is_told(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = build(llava(tmp_path), batch_size=2)

    def generate(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(transformers.LlavaForConditionalGeneration, "generate", generate)
    with pytest.raises(UserError, match=r"captioner.batch_size = 2 clips do not fit .* cpu: lower it"):
        captioner.caption(clips(rng))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gone/nowhere", r"captioner.model names gone/nowhere, which cannot be loaded.*'hf download gone/nowhere'"),
        ("./gone", r'names ./gone, .*there is no such folder.* use captioner.name="none"'),
        ("pickled", r"pickled, which cannot be loaded from a config and safetensors"),
        ("torn", r"torn, whose files lack 1 of the model's weights, such as .*lm_head.weight"),
        ("gpt", r"gpt, which has no processor for images and text: use a model such as LLaVA"),
        ("short", r"short, which does not take 3 frames and the prompt: .* are more than the model's 20: lower"),
        ("speechless", r"speechless, which does not take 3 frames and the prompt: no frames, please"),
        ("qwen", r"qwen, which needs more packages: .* requires the Torchvision library .* that goes with this torch"),
    ],
)
def test_what_cannot_be_used_is_named(
    model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / model
    made = {"speechless": {"template": "{{ raise_exception('no frames, please') }}"}, "short": {"positions": 20}}
    if model == "gpt":
        save(folder, transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1)), tokenizer())
    elif model == "qwen":
        if find_spec("torchvision"):
            pytest.skip("it is there")
        transformers.Qwen2VLConfig().save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Qwen2VLImageProcessor"}')
    elif model.isalpha():
        whole = llava(folder, **made.get(model, {}))
        weights = transformers.LlavaForConditionalGeneration.from_pretrained(whole)
        if model == "pickled":
            torch.save(weights.state_dict(), folder / "pytorch_model.bin")
            (folder / "model.safetensors").unlink()
        if model == "torn":
            state = {key: value for key, value in weights.state_dict().items() if key != "lm_head.weight"}
            weights.save_pretrained(folder, state_dict=state)
    with pytest.raises(UserError, match=message):
        build(str(folder) if folder.is_dir() else model)
