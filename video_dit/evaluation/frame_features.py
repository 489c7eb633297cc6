"""Features of frames: for the Fréchet and the kernel distance per frame, and for how well frames fit a text."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.clips import check_clips


class ImageEncoder(Protocol):
    """Such as `video_dit.encoders.transformers_vision.TransformersVision`."""

    def image_features(self, frames: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to [B, D]."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """With texts in the same space."""

    def text_features(self, prompts: list[str]) -> Tensor:
        """B prompts to [B, D]."""
        ...


def frame_features(clips: Tensor, encoder: ImageEncoder, batch_size: int = 64) -> Tensor:
    """What `frechet_distance` and `kernel_distance` compare frame by frame.

    CLIP's features do not follow the classes of ImageNet as Inception's do, and are what Kynkäänniemi et al. 2023
    (arXiv 2203.06026) propose. The numbers are not those of Inception's FID.

    Args:
        clips: uint8 [N, F, H, W, 3].
        encoder: of images.
        batch_size: frames computed together.

    Returns:
        [N, F, D].

    Raises:
        UserError: they are no such clips.
    """
    check_clips(clips)
    frames = clips.flatten(0, 1).split(batch_size)
    return torch.cat([encoder.image_features(batch) for batch in frames]).unflatten(0, clips.shape[:2])


def text_similarity(features: Tensor, prompts: list[str], encoder: ImageTextEncoder, batch_size: int = 64) -> Tensor:
    """The cosine between the features of a frame and of the clip's prompt, and its mean over the frames.

    CLIPScore (Hessel et al. 2021, arXiv 2104.08718, section 3) of an image is 2.5 times this cosine, or 0 where the
    cosine is below.

    Args:
        features: [N, F, D], as `frame_features` gives those of N clips with this encoder.
        prompts: N, what each clip should show.
        encoder: of images and texts, such as CLIP's.
        batch_size: prompts computed together.

    Returns:
        [N] in [-1, 1].

    Raises:
        UserError: there are not as many prompts.
    """
    if len(prompts) != len(features):
        raise UserError(f"{len(features)} clips are compared with {len(prompts)} prompts: give one for each clip")
    starts = range(0, len(prompts), batch_size)
    texts = torch.cat([encoder.text_features(prompts[start : start + batch_size]) for start in starts])
    return F.cosine_similarity(features, texts.unsqueeze(1), dim=-1).mean(1)
