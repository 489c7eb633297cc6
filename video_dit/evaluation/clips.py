"""What every measure is given: clips as generated or decoded, uint8 [N, F, H, W, 3]."""

import torch
from torch import Tensor

from video_dit.errors import UserError


def check_clips(clips: Tensor, min_frames: int = 1, min_size: int = 1) -> None:
    """
    Args:
        clips: should be uint8 [N, F, H, W, 3], with one clip or more.
        min_frames: of a clip.
        min_size: of a frame's height and width, in pixels.

    Raises:
        UserError: they are not, or have fewer frames or pixels.
    """
    shape = list(clips.shape)
    if clips.dtype != torch.uint8 or len(shape) != 5 or shape[-1] != 3 or 0 in shape:
        raise UserError(
            f"clips are {clips.dtype} of the shape {shape}, and should be uint8 [N, F, H, W, 3]: give the frames as "
            "VideoPipeline makes them"
        )
    if shape[1] < min_frames:
        raise UserError(f"clips have {shape[1]} frames, and this measure needs {min_frames}: give longer clips")
    if min(shape[2:4]) < min_size:
        raise UserError(
            f"clips have frames of {shape[2]} x {shape[3]} pixels, and this measure needs {min_size} either way: "
            "give larger clips"
        )


def check_pairs(clips: Tensor, references: Tensor, min_size: int = 1) -> None:
    """As `check_clips`, of clips that are compared one by one.

    Raises:
        UserError: either are no clips, or their shapes differ.
    """
    check_clips(clips, min_size=min_size)
    check_clips(references, min_size=min_size)
    if clips.shape != references.shape:
        raise UserError(
            f"clips of the shape {list(clips.shape)} are compared with references of {list(references.shape)}: give "
            "a reference of the same size and length for each"
        )
