"""On tiny models with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from vision_models import VISION, save, save_clip

from video_dit.encoders.transformers_vision import TransformersVision
from video_dit.errors import UserError
from video_dit.evaluation.frame_features import frame_features, text_similarity

PROMPTS = ["a cat", "the long road"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_clip(tmp_path)


@pytest.fixture
def clips(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, (2, 3, 20, 24, 3), dtype=np.uint8))


def vision(folder: Path) -> TransformersVision:
    return TransformersVision(str(folder), torch.device("cpu"), "--vision-model")


def test_text_similarity_is_the_mean_cosine_of_each_frame_with_the_prompt(clip: Path, clips: Tensor) -> None:
    """As CLIPModel's own logits are, of each frame and its prompt alone, without padding."""
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)

    def cosine(frame: Tensor, prompt: str) -> float:
        tokens = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=12)
        pixels = processor(images=frame.numpy(), return_tensors="pt").pixel_values
        with torch.no_grad():
            return float(model(pixel_values=pixels, **tokens).logits_per_image / model.logit_scale.exp())

    expected = [np.mean([cosine(frame, prompt) for frame in one]) for one, prompt in zip(clips, PROMPTS, strict=True)]
    encoder = vision(clip)
    similarity = text_similarity(frame_features(clips, encoder, batch_size=4), PROMPTS, encoder, batch_size=1)
    assert similarity.tolist() == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_frames_of_dinov2_give_the_class_token(tmp_path: Path, clips: Tensor) -> None:
    config = transformers.Dinov2Config(**VISION, image_size=16)
    folder = save(tmp_path, transformers.Dinov2Model(config))
    features = frame_features(clips, vision(folder), batch_size=4)
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(folder)(
        images=list(clips.flatten(0, 1).numpy()), return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        expected = transformers.Dinov2Model.from_pretrained(folder).eval()(pixels).last_hidden_state[:, 0]
    assert features.shape == (2, 3, 16)
    torch.testing.assert_close(features.flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


def test_mistakes_say_what_to_do(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 clips are compared with 1 prompts"):
        text_similarity(torch.ones(2, 3, 16), PROMPTS[:1], vision(clip))
    with pytest.raises(UserError, match="--vision-model names /nowhere, which cannot be loaded"):
        vision(Path("/nowhere"))
    folder = save(tmp_path / "dino", transformers.Dinov2Model(transformers.Dinov2Config(**VISION, image_size=16)))
    with pytest.raises(UserError, match="reads no texts"):
        text_similarity(torch.ones(2, 3, 16), PROMPTS, vision(folder))
