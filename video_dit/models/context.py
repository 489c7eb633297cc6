"""What all blocks of one forward pass share: conditioning, masks and positions."""

from functools import lru_cache
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from video_dit.config import ModelConfig
from video_dit.ops.attention import AttentionMask
from video_dit.ops.normalization import Conditioning
from video_dit.ops.position import Rotary
from video_dit.parallel import Shard
from video_dit.shapes import Grid


class Masks(NamedTuple):
    """Who sees whom; None where all see all. Joint sequences hold the video's tokens first, then the text's.

    joint: video and text see video and text.
    into_video: the video sees video and text; the joint mask without the text's queries.
    video: the video sees the video.
    text: the video sees the text.
    temporal: the video sees the video at the same place of other frames.
    """

    joint: AttentionMask | None = None
    into_video: AttentionMask | None = None
    video: AttentionMask | None = None
    text: AttentionMask | None = None
    temporal: AttentionMask | None = None


class Context(NamedTuple):
    """What the blocks of one forward pass share.

    video_conditioning, text_conditioning: timestep, pooled text and whatever else steers the adaptive norms.
    masks: see `Masks`.
    rotary: cosine and sine of the video tokens' places; None to leave them unrotated.
    backend: how attention is computed; see `attention`.
    shard: which of the video's tokens this rank has; None: all. The conditioning and `rotary` are those of its tokens,
        the masks those of all.
    """

    video_conditioning: Conditioning
    text_conditioning: Conditioning
    masks: Masks = Masks()
    rotary: Rotary | None = None
    backend: str = "auto"
    shard: Shard | None = None

    def of_video_tokens(self, which: Tensor | slice) -> "Context":
        """For some of the video's tokens, or for them in another order."""
        conditioning, rotary = self.video_conditioning, self.rotary
        if conditioning.vector_of_token is not None:
            conditioning = conditioning._replace(vector_of_token=conditioning.vector_of_token[which])
        if rotary is not None:
            rotary = rotary[0][..., which, :], rotary[1][..., which, :]
        return self._replace(video_conditioning=conditioning, rotary=rotary)

    @property
    def joint_conditioning(self) -> Conditioning:
        """For the joint sequence, video first."""
        video, text = self.video_conditioning, self.text_conditioning
        if video.vector_of_token is None or text.vector_of_token is None:
            return video  # one vector for all tokens
        num_video_vectors = video.vectors.shape[1]
        return Conditioning(
            torch.cat((video.vectors, text.vectors), dim=1),
            torch.cat((video.vector_of_token, num_video_vectors + text.vector_of_token)),
        )


def batch_masks(config: ModelConfig, grid: Grid, text_mask: Tensor) -> Masks:
    """The masks of a batch whose clips have one grid, under the config's attention pattern.

    Args:
        config: its attention pattern is read.
        grid: of the video tokens, which stand in the order of `token_order`.
        text_mask: [B, L] bool, false on padding; where the model `repeats_text`, of one copy.
    """
    num_copies = grid.frames if repeats_text(config) else 1
    num_text = num_copies * text_mask.shape[1]
    tile, window = config.window_tile, config.window_size
    masks = _pattern_masks(config.attention_pattern, tile, window, grid, num_text, num_copies, text_mask.device)
    if bool(text_mask.all()):
        return masks
    video_and_text = torch.cat((text_mask.new_ones(len(text_mask), grid.size), text_mask.repeat(1, num_copies)), dim=1)
    return masks._replace(
        joint=_without_padding(masks.joint, video_and_text),
        into_video=_without_padding(masks.into_video, video_and_text),
        text=_without_padding(masks.text, text_mask),
    )


def _without_padding(mask: AttentionMask | None, not_padding: Tensor) -> AttentionMask:
    return AttentionMask(not_padding, None if mask is None else mask.groups)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is remembered may serve training, too
def _pattern_masks(
    pattern: str,
    tile: tuple[int, int, int],
    window: tuple[int, int, int],
    grid: Grid,
    num_text: int,
    num_copies: int,
    device: torch.device,
) -> Masks:
    """The masks of a batch without padding. Where the text is repeated, each frame has one of its `num_copies`."""
    video, text = torch.arange(grid.size), grid.size + torch.arange(num_text)
    if pattern == "full":
        return Masks()
    if pattern == "factorised":
        frames = rearrange(video, "(f p) -> f p", f=grid.frames)
        groups, places = [(frame, frame) for frame in frames], [(place, place) for place in frames.T]
    else:
        groups, places = window_groups(grid, tile, window), []
    texts = text.view(num_copies, -1).expand(len(groups), -1)
    into_video = [(queries, torch.cat((keys, own))) for (queries, keys), own in zip(groups, texts, strict=True)]
    if num_copies > 1:
        joint = [(torch.cat((queries, own)), keys) for (queries, keys), own in zip(into_video, texts, strict=True)]
    else:
        joint = [*into_video, (text, torch.cat((video, text)))]
    return Masks(
        joint=AttentionMask.of_groups(joint, device),
        into_video=AttentionMask.of_groups(into_video, device),
        video=AttentionMask.of_groups(groups, device),
        temporal=AttentionMask.of_groups(places, device) if places else None,
    )


def packed_masks(video_lengths: list[int], text_lengths: list[int], device: torch.device) -> Masks:
    """The masks of several clips, and their texts, in one sequence: each sees its own."""
    video = torch.arange(sum(video_lengths)).split(video_lengths)
    text = torch.arange(sum(text_lengths)).split(text_lengths)
    both = [torch.cat((v, t + sum(video_lengths))) for v, t in zip(video, text, strict=True)]
    return Masks(
        joint=AttentionMask.of_groups(zip(both, both, strict=True), device),
        into_video=AttentionMask.of_groups(zip(video, both, strict=True), device),
        video=AttentionMask.of_groups(zip(video, video, strict=True), device),
        text=AttentionMask.of_groups(zip(video, text, strict=True), device),
    )


def repeats_text(config: ModelConfig) -> bool:
    """Within frames, each frame has a copy of the text, which it changes in its own way."""
    return config.attention_pattern == "factorised" and config.joins_text


def token_order(config: ModelConfig, grid: Grid, device: torch.device) -> Tensor | None:
    """[V] int64: the order in which the blocks see the tokens; None to keep that of `patchify`.

    Under windows, tile by tile: what a tile sees is then a few contiguous pieces, which FlexAttention can skip between.
    """
    return _tile_order(grid, config.window_tile, device) if config.attention_pattern == "window" else None


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _tile_order(grid: Grid, tile: tuple[int, int, int], device: torch.device) -> Tensor:
    return torch.cat([tokens.flatten() for tokens in _tiles(grid, tile)]).to(device)


def window_groups(grid: Grid, tile: tuple[int, int, int], window: tuple[int, int, int]) -> list[tuple[Tensor, Tensor]]:
    """Sliding tiles (Zhang et al. 2025, arXiv 2502.04507): each tile sees a box of `window` tiles around it.

    At the borders the box is shifted inwards, so that all tiles see as many. The tokens are numbered tile by tile, as
    `token_order` lays them.

    Returns:
        for each tile (queries [n], keys [m]).
    """
    numbered = torch.arange(grid.size).split([tokens.numel() for tokens in _tiles(grid, tile)])
    counts = Grid(*(-(-length // size) for length, size in zip(grid, tile, strict=True)))
    index_of = torch.arange(counts.size).view(*counts)
    groups = []
    for at, queries in zip(
        torch.cartesian_prod(*map(torch.arange, counts)).view(-1, 3).tolist(), numbered, strict=True
    ):
        box = []
        for place, size, count in zip(at, window, counts, strict=True):
            first = max(0, min(place - size // 2, count - size))
            box.append(slice(first, first + size))
        groups.append((queries, torch.cat([numbered[i] for i in index_of[tuple(box)].flatten().tolist()])))
    return groups


def _tiles(grid: Grid, tile: tuple[int, int, int]) -> list[Tensor]:
    """The tokens of each tile, numbered as `patchify` lays them; tiles at the far borders may be smaller."""
    tokens = torch.arange(grid.size).view(*grid)
    return [
        block
        for slab in tokens.split(tile[0], dim=0)
        for row in slab.split(tile[1], dim=1)
        for block in row.split(tile[2], dim=2)
    ]
