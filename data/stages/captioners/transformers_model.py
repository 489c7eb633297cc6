"""Captions from image-text and video-text models of the transformers library.

| the processor                         | sees                    | is asked                                        |
|---------------------------------------|-------------------------|-------------------------------------------------|
| takes videos (it has a video token)   | the frames as a video   | in its chat template; without one, token, prompt |
| takes images in text (an image token) | each frame as an image  | likewise                                        |
| takes an image (BLIP, GIT)            | the frame in the middle | nothing: it would go on with the prompt         |
"""

from typing import Any

import jinja2
import torch
import transformers
from PIL import Image

from data.stages.captioners.contract import one_line
from data.stages.failure import ClipError
from data.stages.frames import ClipFrames
from video_dit.config import CaptionerConfig
from video_dit.errors import UserError
from video_dit.precision import DTYPES
from video_dit.pretrained import Source, explained, refuse_missing

_KEY = "captioner.model"

_GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""Over the model's own settings."""


class TransformersCaptioner:
    """Greedy decoding, `batch_size` clips at a time, padded at the left.

    What it says of a clip does not depend on its neighbours but for rounding, which may choose between two words that
    are almost as likely; the same batches give the same captions.

    Args:
        config: the [captioner] table.
        device: where to compute.

    Raises:
        UserError: the model is not there, is of another kind, or its processor does not take such frames.
    """

    def __init__(self, config: CaptionerConfig, device: torch.device) -> None:
        self._config = config
        self._processor, self._model = _load(config)
        self._model.to(device)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self._model.generation_config.pad_token_id is None:
            self._model.generation_config.pad_token_id = tokenizer.pad_token_id
        black = torch.zeros(config.num_frames, config.height, config.height, 3, dtype=torch.uint8).numpy()
        try:
            self._inputs([ClipFrames(black, 1.0)])
        except (ValueError, jinja2.TemplateError) as error:
            raise UserError(
                f"{_KEY} names {config.model}, which does not take {config.num_frames} frames and the prompt: {error}"
            ) from error

    def caption(self, clips: list[ClipFrames]) -> list[str | ClipError]:
        """As `Captioner` says.

        Raises:
            UserError: the memory of the device is too small.
        """
        size = self._config.batch_size
        batches = [clips[first : first + size] for first in range(0, len(clips), size)]
        return [caption for batch in batches for caption in self._captions(batch)]

    def _captions(self, clips: list[ClipFrames]) -> list[str | ClipError]:
        """Of a batch; where one of its clips is refused, of each clip by itself."""
        try:
            inputs = self._inputs(clips)
        except ValueError as error:
            if len(clips) > 1:
                return [caption for clip in clips for caption in self._captions([clip])]
            return [ClipError(f"the captioner does not take its frames: {error}")]
        captions: list[str | ClipError] = []
        for said in self._generate(inputs):
            try:
                captions.append(one_line(said))
            except ClipError as error:
                captions.append(error)
        return captions

    def _inputs(self, clips: list[ClipFrames]) -> transformers.BatchFeature:
        """What the model takes, on the CPU.

        Raises:
            ValueError: the processor does not take the frames, or the model not so many tokens.
        """
        inputs = _prepare(self._processor, clips, self._config.prompt)
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        if limit is not None and length + self._config.max_new_tokens > limit:
            raise ValueError(
                f"{length:,} tokens and {self._config.max_new_tokens:,} of a caption are more than the model's "
                f"{limit:,}: lower captioner.num_frames, captioner.height or captioner.max_new_tokens"
            )
        return inputs

    @torch.no_grad()
    def _generate(self, inputs: transformers.BatchFeature) -> list[str]:
        """
        Raises:
            UserError: the memory is too small.
        """
        try:
            inputs = inputs.to(self._model.device, self._model.dtype)
            tokens = self._model.generate(**inputs, max_new_tokens=self._config.max_new_tokens, **_GREEDY)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"captioner.batch_size = {self._config.batch_size} clips do not fit into the memory of "
                f"{self._model.device}: lower it, captioner.num_frames or captioner.height"
            ) from error
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(tokens[:, : asked.shape[1]], asked):
            tokens = tokens[:, asked.shape[1] :]  # a decoder gives the question back, an encoder-decoder does not
        return list(self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True))


def _prepare(processor: Any, clips: list[ClipFrames], prompt: str) -> transformers.BatchFeature:
    """The processor's output for a batch: the table at the top."""
    if getattr(processor, "video_token", None) is not None:
        token, kind = processor.video_token, "video"
        shown: list[list[Any]] = [[clip.pixels] for clip in clips]
        rates = [{"fps": len(clip.pixels) / clip.seconds, **_sampled(clip)} for clip in clips]
        options = {"do_sample_frames": False, "video_metadata": rates}
    elif getattr(processor, "image_token", None) is not None:
        token, kind = processor.image_token, "image"
        shown = [[Image.fromarray(frame) for frame in clip.pixels] for clip in clips]
        options = {}
    else:
        middle = [Image.fromarray(clip.pixels[len(clip.pixels) // 2]) for clip in clips]
        return processor(images=middle, return_tensors="pt")
    if processor.chat_template is None:
        texts = ["".join([str(token)] * len(frames)) + prompt for frames in shown]
        return processor(text=texts, **{f"{kind}s": shown}, padding=True, return_tensors="pt", **options)
    question = {"type": "text", "text": prompt}
    chats = [
        [{"role": "user", "content": [*({"type": kind, kind: frames} for frames in clip), question]}] for clip in shown
    ]
    return processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **options},
    )


def _sampled(clip: ClipFrames) -> dict[str, Any]:
    """What else a processor wants to know of frames that are all used."""
    count, height, width, _ = clip.pixels.shape
    return {
        "total_num_frames": count,
        "frames_indices": list(range(count)),
        "duration": clip.seconds,
        "height": height,
        "width": width,
    }


def _load(config: CaptionerConfig) -> tuple[Any, transformers.PreTrainedModel]:
    assert config.model is not None
    source = Source.parse(config.model)
    with explained(_KEY, config.model, 'captioner.name="none"'):
        try:
            processor = transformers.AutoProcessor.from_pretrained(
                source.name, trust_remote_code=False, **source.options
            )
        except ImportError as error:
            raise UserError(
                f"{_KEY} names {config.model}, which needs more packages: {str(error).strip().split('. ')[0]}. Install "
                'the build that goes with this torch, or run the model behind captioner.name="server"'
            ) from error
        if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
            raise UserError(
                f"{_KEY} names {config.model}, which has no processor for images and text: use a model such as LLaVA, "
                "Qwen-VL, SmolVLM or BLIP"
            )
        model, info = transformers.AutoModelForImageTextToText.from_pretrained(
            source.name,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **source.options,
        )
    refuse_missing(_KEY, config.model, set(info["missing_keys"]))
    return processor, model.eval().requires_grad_(False)
