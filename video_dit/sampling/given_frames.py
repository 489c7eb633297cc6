"""Frames that a user gives: of videos and of pictures."""

from pathlib import Path

import numpy as np
import torch
from einops import repeat
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from video_dit.errors import UserError
from video_dit.shapes import Grid


def checked_frames(frames: Tensor, size: Grid, what: str, batch_size: int) -> Tensor:
    """Frames that a user gives, checked and one clip for each of the batch.

    Args:
        frames: uint8 [F, H, W, 3] or [B, F, H, W, 3].
        size: of the clip.
        what: names the frames in errors.
        batch_size: B.

    Returns:
        uint8 [B, F, H, W, 3].

    Raises:
        UserError: they are of another kind, size or number.
    """
    if frames.dtype != torch.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] != 3:
        raise UserError(f"{what} is {frames.dtype} {list(frames.shape)}, and must be uint8 with height, width, 3 last")
    if frames.shape[-3:-1] != (size.height, size.width):
        height, width = frames.shape[-3:-1]
        raise UserError(
            f"{what} is {height} x {width} pixels, and the clip {size.height} x {size.width}: resize it, or change "
            "height and width"
        )
    if frames.ndim == 4:
        return repeat(frames, "f h w c -> b f h w c", b=batch_size)
    if len(frames) != batch_size:
        raise UserError(f"{what} has {len(frames)} clips for {batch_size} prompts: give one for all, or one for each")
    return frames


def read_image(path: Path, height: int, width: int) -> Tensor:
    """A picture, scaled to cover height x width and cropped centrally: uint8 [H, W, 3].

    Raises:
        UserError: the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip instead of scale
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}; make it smaller") from error
    except (UnidentifiedImageError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: there is no such image") from error
        raise UserError(f"{path}: cannot be read as an image; use a PNG, JPEG or WebP file") from error
    return torch.from_numpy(np.array(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)))
