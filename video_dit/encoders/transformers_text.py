"""Text encoders of the transformers library: BERT's kin, T5's, CLIP's and decoder-only models, one or several.

| kind         | embeds                   | pooled                        | mask                                |
|--------------|--------------------------|-------------------------------|-------------------------------------|
| CLIP         | penultimate hidden state | at the end token, projected   | all true: it encodes its padding    |
| encoder-only | last hidden state        | mean over the tokens          | true on tokens                      |
| T5           | last hidden state        | mean over the tokens          | true on tokens                      |
| decoder-only | a chosen hidden state    | of the last token, which alone has seen all others | true on tokens |

CLIP's padding and its penultimate state are as in SD3 (Esser et al. 2024, arXiv 2403.03206, section 4 and appendix B).
"""

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto import modeling_auto

from video_dit.config import TextEncoderConfig
from video_dit.contracts import TextCondition, TextSegment
from video_dit.errors import UserError
from video_dit.precision import DTYPES
from video_dit.pretrained import Source, explained, refuse_missing

_KEY = "text_encoder.models"
_DEFAULT = 'text_encoder.name="hash"'


class TransformersTextEncoder:
    """Pretrained text encoders, joined as in SD3.

    CLIPs share their tokens and lie side by side along the channels; each other model's tokens follow. All is padded
    with zeros to the greatest width. The pooled vectors of the CLIPs lie side by side; where there is no CLIP, those of
    the other models do.

    Args:
        config: the [text_encoder] table.
        device: where to compute.

    Raises:
        UserError: a model is not there, is of none of the kinds above, or reads fewer tokens than it is asked to.
    """

    def __init__(self, config: TextEncoderConfig, device: torch.device) -> None:
        max_lengths = config.max_lengths * (len(config.models) // len(config.max_lengths))
        models = [_load(name, length, config) for name, length in zip(config.models, max_lengths, strict=True)]
        self._models = sorted(models, key=lambda model: not isinstance(model, _CLIP))
        self.segments = _segments(self._models)
        self.max_length = max(segment.tokens[1] for segment in self.segments)
        self.width = max(segment.channels[1] for segment in self.segments)
        self.pooled_width = max(segment.pooled[1] for segment in self.segments)
        self.to(device)

    def encode(self, prompts: list[str]) -> TextCondition:
        """float32, whatever the weights are."""
        device = self._models[0].model.device
        embeds = torch.zeros(len(prompts), self.max_length, self.width, device=device)
        mask = torch.zeros(len(prompts), self.max_length, dtype=torch.bool, device=device)
        pooled = torch.zeros(len(prompts), self.pooled_width, device=device)
        for model, segment in zip(self._models, self.segments, strict=True):
            part = model.encode(prompts)
            tokens, channels, own_pooled = (slice(*range_) for range_ in segment[:3])
            embeds[:, tokens, channels] = part.embeds
            mask[:, tokens] = part.mask
            pooled[:, own_pooled] = part.pooled[:, : segment.pooled[1] - segment.pooled[0]]
        return TextCondition(embeds, mask, pooled)

    def num_tokens(self, prompt: str) -> tuple[int, ...]:
        """With the tokens that each model puts around a prompt."""
        return tuple(model.num_tokens(prompt) for model in self._models)

    def to(self, device: torch.device) -> None:
        for model in self._models:
            model.model.to(device)


class _Model:
    """One model with its tokenizer; the kinds differ in `forward`."""

    def __init__(
        self, name: str, tokenizer: Any, model: transformers.PreTrainedModel, max_length: int, config: TextEncoderConfig
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.max_length = max_length
        self.mask_padding = config.mask_padding
        self.hidden_layer = config.hidden_layer
        self._tokenizer = tokenizer
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def pooled_width(self) -> int:
        return self.width

    def num_tokens(self, prompt: str) -> int:
        return len(self._tokenizer(prompt, verbose=False).input_ids)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> TextCondition:
        """embeds [B, max_length, width], mask [B, max_length], pooled [B, pooled_width]."""
        tokens = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        mask = tokens.attention_mask.bool()
        mask[:, 0] = True  # where nothing is put around an empty prompt, padding stands for it
        if not self.mask_padding:
            mask[:] = True
        mask = mask.to(self.model.device)
        embeds, pooled = self.forward(tokens.input_ids.to(self.model.device), mask)
        return TextCondition(embeds.float() * mask[..., None], mask, pooled.float())

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class _Encoder(_Model):
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        embeds = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        return embeds, (embeds * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class _Decoder(_Model):
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
        embeds = output.hidden_states[self.hidden_layer]
        return embeds, embeds[torch.arange(len(ids)), mask.sum(1) - 1]


class _CLIP(_Model):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mask_padding = False

    @property
    def pooled_width(self) -> int:
        return int(self.model.config.projection_dim) if self._is_projected else self.width

    @property
    def _is_projected(self) -> bool:
        return isinstance(self.model, transformers.CLIPTextModelWithProjection)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds if self._is_projected else output.pooler_output


def _load(name: str, max_length: int, config: TextEncoderConfig) -> _Model:
    source = Source.parse(name)
    with explained(_KEY, name, _DEFAULT):
        settings = transformers.AutoConfig.from_pretrained(source.name, trust_remote_code=False, **source.options)
        kind, loader = _kind(name, settings)
        if settings.model_type == "clip":  # with its vision half, whose projection is as wide
            settings.text_config.projection_dim = settings.projection_dim
            settings = settings.text_config
        model, info = loader.from_pretrained(
            source.name,
            config=settings,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **source.options,
        )
        beside = source.beside("text_encoder", "tokenizer")  # of a pipeline's folder
        tokenizer = transformers.AutoTokenizer.from_pretrained(beside.name, trust_remote_code=False, **beside.options)
    refuse_missing(_KEY, name, {key for key in info["missing_keys"] if "pooler" not in key})
    limit = getattr(model.config, "max_position_embeddings", None)  # T5 has relative positions, and no limit
    if limit is not None and max_length > min(limit, tokenizer.model_max_length):
        raise UserError(
            f"text_encoder.max_lengths asks {name} for {max_length} tokens, and it reads "
            f"{min(limit, tokenizer.model_max_length)}: ask for so many at most"
        )
    depth = model.config.num_hidden_layers
    if kind is _Decoder and not -depth - 1 <= config.hidden_layer <= depth:
        raise UserError(
            f"text_encoder.hidden_layer is {config.hidden_layer}, and {name} has hidden states 0 to {depth}, or "
            f"{-depth - 1} to -1 from the end"
        )
    return kind(name, tokenizer, model, max_length, config)


def _kind(name: str, config: transformers.PretrainedConfig) -> tuple[type[_Model], Any]:
    """What a model is, and the class that loads the part of it that reads text."""
    if config.model_type in ("clip", "clip_text_model"):
        bare = config.architectures == ["CLIPTextModel"]
        return _CLIP, transformers.CLIPTextModel if bare else transformers.CLIPTextModelWithProjection
    if config.model_type in ("t5", "mt5", "umt5"):
        return _Encoder, transformers.AutoModelForTextEncoding
    if not config.is_encoder_decoder:
        if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            return _Encoder, transformers.AutoModel
        if config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return _Decoder, transformers.AutoModel
    raise UserError(
        f"{_KEY} names {name}, which is a {config.model_type}: use a CLIP, a T5, an encoder-only model such as BERT, "
        "or a decoder-only one such as Llama or Qwen"
    )


def _segments(models: list[_Model]) -> tuple[TextSegment, ...]:
    """CLIPs come first in `models`.

    Raises:
        UserError: CLIPs that share their tokens are asked for different numbers of them.
    """
    clips = [model for model in models if isinstance(model, _CLIP)]
    if len({clip.max_length for clip in clips}) > 1:
        raise UserError(
            f"text_encoder.max_lengths is {' and '.join(str(clip.max_length) for clip in clips)} for "
            f"{' and '.join(clip.name for clip in clips)}, which share their tokens: give them one length"
        )
    segments = []
    token = channel = pooled = 0
    for model in models:
        pooled_width = model.pooled_width if model in clips or not clips else 0
        ends = (token + model.max_length, channel + model.width, pooled + pooled_width)
        segments.append(TextSegment((token, ends[0]), (channel, ends[1]), (pooled, ends[2]), model.name))
        pooled = ends[2]
        token, channel = (0, ends[1]) if model in clips[:-1] else (ends[0], 0)
    return tuple(segments)
