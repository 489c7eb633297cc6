"""Features of images, and of texts beside them, from vision models of the transformers library.

| the model                            | an image's features                          | a text's     |
|--------------------------------------|----------------------------------------------|--------------|
| CLIP, SigLIP and others with a text half | projected, in the space of the texts     | projected    |
| DINOv2, ViT, ConvNeXt ...            | its pooled output, such as the class token's | none         |
"""

from typing import Any

import torch
import transformers
from torch import Tensor

from video_dit.errors import UserError
from video_dit.pretrained import Source, explained, refuse_missing


class TransformersVision:
    """A pretrained model in fp32, with its own preparation of images.

    Args:
        name: a folder, or a model of the hub.
        device: where to compute.
        named_by: the key or option that named it, for messages.

    Raises:
        UserError: the model is not there, is not whole, or reads no images.
    """

    def __init__(self, name: str, device: torch.device, named_by: str) -> None:
        self._name, self._named_by = name, named_by
        self._source = Source.parse(name)
        with explained(named_by, name, "a measure of pixels, such as SSIM"):
            self._processor = transformers.AutoImageProcessor.from_pretrained(
                self._source.name, trust_remote_code=False, **self._source.options
            )
            model, info = transformers.AutoModel.from_pretrained(
                self._source.name,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
                **self._source.options,
            )
        refuse_missing(named_by, name, set(info["missing_keys"]))
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer: Any = None

    @property
    def reads_texts(self) -> bool:
        """Whether texts have features too."""
        return hasattr(self._model, "get_text_features")

    @torch.no_grad()
    def image_features(self, frames: Tensor) -> Tensor:
        """
        Args:
            frames: uint8 [B, H, W, 3].

        Returns:
            [B, D] float32, on the CPU, of any length.

        Raises:
            UserError: the model has no one vector for an image.
        """
        prepared = self._processor(
            images=list(frames.cpu().numpy()), input_data_format="channels_last", return_tensors="pt"
        )
        pixels = prepared["pixel_values"].to(self._model.device)
        has_texts = hasattr(self._model, "get_image_features")
        output = self._model.get_image_features(pixels) if has_texts else self._model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            raise UserError(
                f"{self._named_by} names {self._name}, which has no pooled features: use a model such as CLIP or DINOv2"
            )
        return pooled.flatten(1).float().cpu()

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """[B, D] float32, on the CPU, in the space of the images; texts are cut to what the model reads.

        Raises:
            UserError: the model reads no texts.
        """
        if not self.reads_texts:
            raise UserError(
                f"{self._named_by} names {self._name}, which reads no texts: use a model with both halves, such as CLIP"
            )
        if self._tokenizer is None:
            with explained(self._named_by, self._name, "a measure of pixels, such as SSIM"):
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                    self._source.name, trust_remote_code=False, **self._source.options
                )
        length = self._model.config.get_text_config().max_position_embeddings
        tokens = self._tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        output = self._model.get_text_features(**tokens.to(self._model.device))
        return output.pooler_output.float().cpu()
