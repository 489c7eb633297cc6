"""The shapes that clips come in, and which of them a clip gets."""

from collections.abc import Sequence
from itertools import product
from math import log, sqrt

from data.dataset_info import bucket_name
from data.decoders import Size
from data.stages.filters import Drop
from video_dit.config import Config
from video_dit.errors import UserError
from video_dit.shapes import Compression, Grid, latent_grid, token_grid

ROUNDING = 1e-6
"""Of seconds in frames, and of pixels in tokens."""


def make_buckets(config: Config, autoencoder: Compression) -> list[Grid]:
    """Sizes x frame counts x aspect ratios, in pixels, without those beyond the token budget.

    Heights and widths are rounded down to whole tokens. With nothing in [buckets], the one clip of [data].

    Raises:
        UserError: the autoencoder does not take such clips, or none is within the budget.
    """
    data, buckets = config.data, config.buckets
    steps = [stride * patch for stride, patch in zip(autoencoder.stride[1:], config.model.patch_size[1:], strict=True)]
    frame_counts = buckets.num_frames or (data.num_frames,)
    if buckets.sizes or buckets.aspects:
        sizes = buckets.sizes or (sqrt(data.height * data.width),)
        aspects = [_aspect(text) for text in buckets.aspects] or [data.width / data.height]
        frames = [
            (_rounded_down(size / sqrt(aspect), steps[0]), _rounded_down(size * sqrt(aspect), steps[1]))
            for size, aspect in product(sizes, aspects)
        ]
    else:
        frames = [(data.height, data.width)]
    grids = sorted({Grid(count, *frame) for count, frame in product(frame_counts, frames)})
    if buckets.max_tokens is None:
        for grid in grids:
            latent_grid(grid, autoencoder)
        return grids
    tokens = {grid: token_grid(latent_grid(grid, autoencoder), config.model.patch_size).size for grid in grids}
    within = [grid for grid in grids if tokens[grid] <= buckets.max_tokens]
    if not within:
        least = min(tokens, key=tokens.__getitem__)
        raise UserError(
            f"buckets.max_tokens is {buckets.max_tokens:,}, and the smallest clip, {bucket_name(least)}, has "
            f"{tokens[least]:,} tokens: raise it, or make buckets.sizes or buckets.num_frames smaller"
        )
    return within


def choose_bucket(grids: Sequence[Grid], size: Size, seconds: float, config: Config) -> Grid | Drop:
    """The bucket that a clip of this size and length goes into.

    Of those that it is long enough for, the nearest aspect ratio; then the most frames; then the largest size that
    needs no scaling up, or the smallest if all need it.

    Args:
        grids: at least one.
        size: (height, width) of the video.
        seconds: that the clip lasts.
    """
    fps = config.data.fps
    num_frames = int(seconds * fps + ROUNDING)
    long_enough = [grid for grid in grids if grid.frames <= num_frames]
    if not long_enough:
        least = min(grid.frames for grid in grids)
        rule = "buckets.num_frames" if config.buckets.num_frames else "data.num_frames"
        reason = f"shorter than a clip ({least} frames at {fps:g} fps)"
        return Drop(rule, reason, seconds, least / fps)
    height, width = size
    kept = {grid for grid in long_enough if grid.height <= height and grid.width <= width}
    if not kept and not config.buckets.upscale:
        side = min(min(grid.height, grid.width) for grid in long_enough)
        reason = "smaller than every bucket, and buckets.upscale is false"
        return Drop("buckets.upscale", reason, float(min(size)), float(side))
    candidates = long_enough if config.buckets.upscale else [grid for grid in long_enough if grid in kept]

    def preference(grid: Grid) -> tuple[float, int, bool, int]:
        area = grid.height * grid.width
        distance = abs(log(grid.width / grid.height) - log(width / height))
        return round(distance, 9), -grid.frames, grid not in kept, -area if grid in kept else area

    return min(candidates, key=preference)


def _aspect(text: str) -> float:
    width, _, height = text.partition(":")
    return int(width) / int(height)


def _rounded_down(pixels: float, step: int) -> int:
    return max(1, int(pixels / step + ROUNDING)) * step
