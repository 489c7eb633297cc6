"""What all blocks of one forward pass share: conditioning, masks and positions."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from video_dit.config import ModelConfig
from video_dit.ops.attention import AttentionMask
from video_dit.ops.normalization import Conditioning
from video_dit.ops.position import Rotary
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
    """

    video_conditioning: Conditioning
    text_conditioning: Conditioning
    masks: Masks = Masks()
    rotary: Rotary | None = None
    backend: str = "auto"

    @property
    def joint_conditioning(self) -> Conditioning:
        """For the joint sequence, video first."""
        video, text = self.video_conditioning, self.text_conditioning
        if video is text and video.vector_of_token is None:
            return video
        num_video_vectors = video.vectors.shape[1]
        assert video.vector_of_token is not None
        assert text.vector_of_token is not None
        return Conditioning(
            torch.cat((video.vectors, text.vectors), dim=1),
            torch.cat((video.vector_of_token, num_video_vectors + text.vector_of_token)),
        )


def batch_masks(config: ModelConfig, grid: Grid, text_mask: Tensor) -> Masks:
    """The masks of a batch whose clips have one grid, under the config's attention pattern.

    Args:
        config: its attention pattern and whether it joins the text are read.
        grid: of the video tokens, which stand in the order of `token_order`.
        text_mask: [B, L] bool, false on padding; with `repeats_text`, of one copy.
    """
    device = text_mask.device
    padding = None if bool(text_mask.all()) else text_mask
    num_copies = grid.frames if repeats_text(config) else 1
    num_text = text_mask.shape[1] * num_copies
    video = torch.arange(grid.size, device=device)
    text = grid.size + torch.arange(num_text, device=device)
    joint_padding = None
    if padding is not None:
        joint_padding = torch.cat((padding.new_ones(len(padding), grid.size), padding.repeat(1, num_copies)), dim=1)

    tokens = list(zip(video[None], video[None], strict=True))
    places: list[Tensor] = []
    if config.attention_pattern == "factorised":
        frames = rearrange(video, "(f p) -> f p", f=grid.frames)
        tokens = list(zip(frames, frames, strict=True))
        places = list(frames.T)
    elif config.attention_pattern == "window":
        tokens = window_groups(grid, config.window_tile, config.window_size, device)

    def joined(queries: Tensor, keys: Tensor, index: int) -> tuple[Tensor, Tensor]:
        if not repeats_text(config):
            return queries, torch.cat((keys, text))
        own_text = text.view(num_copies, -1)[index]
        return torch.cat((queries, own_text)), torch.cat((keys, own_text))

    if config.attention_pattern == "full":
        everything = AttentionMask(joint_padding) if joint_padding is not None else None
        masks = Masks(everything, everything)
    else:
        groups = [joined(queries, keys, index) for index, (queries, keys) in enumerate(tokens)]
        if not repeats_text(config):
            groups.append((text, torch.cat((video, text))))
        video_queries = [(queries[queries < grid.size], keys) for queries, keys in groups]
        masks = Masks(
            joint=AttentionMask.of_groups(groups, joint_padding),
            into_video=AttentionMask.of_groups([pair for pair in video_queries if len(pair[0])], joint_padding),
            video=AttentionMask.of_groups(tokens),
            temporal=AttentionMask.of_groups([(place, place) for place in places]) if places else None,
        )
    return masks._replace(text=None if padding is None else AttentionMask(padding))


def packed_masks(video_lengths: list[int], text_lengths: list[int], device: torch.device) -> Masks:
    """The masks of several clips, and their texts, in one sequence: each sees its own."""
    video = torch.arange(sum(video_lengths), device=device).split(video_lengths)
    text = torch.arange(sum(text_lengths), device=device).split(text_lengths)
    both = [torch.cat((v, t + sum(video_lengths))) for v, t in zip(video, text, strict=True)]
    return Masks(
        joint=AttentionMask.of_groups(zip(both, both, strict=True)),
        into_video=AttentionMask.of_groups(zip(video, both, strict=True)),
        video=AttentionMask.of_groups(zip(video, video, strict=True)),
        text=AttentionMask.of_groups(zip(video, text, strict=True)),
    )


def repeats_text(config: ModelConfig) -> bool:
    """Within frames, each frame has a copy of the text, which it changes in its own way."""
    return config.attention_pattern == "factorised" and config.joins_text


def token_order(config: ModelConfig, grid: Grid, device: torch.device) -> Tensor | None:
    """[V] int64: the order in which the blocks see the tokens; None to keep that of `patchify`.

    Under windows, tile by tile: what a tile sees is then a few contiguous pieces, which FlexAttention can skip between.
    """
    if config.attention_pattern != "window":
        return None
    return torch.cat([place.flatten() for place in _tiles(grid, config.window_tile, device)])


def window_groups(
    grid: Grid, tile: tuple[int, int, int], window: tuple[int, int, int], device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Sliding tiles (Zhang et al. 2025, arXiv 2502.04507): each tile sees a box of `window` tiles around it.

    At the borders the box is shifted inwards, so that all tiles see as many. The tokens are numbered tile by tile, as
    `token_order` lays them.

    Returns:
        for each tile (queries [n], keys [m]).
    """
    tiles = _tiles(grid, tile, device)
    numbered = list(torch.arange(grid.size, device=device).split([place.numel() for place in tiles]))
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


def _tiles(grid: Grid, tile: tuple[int, int, int], device: torch.device) -> list[Tensor]:
    """The tokens of each tile, numbered as `patchify` lays them; tiles at the far borders may be smaller."""
    tokens = torch.arange(grid.size, device=device).view(*grid)
    return [
        block
        for slab in tokens.split(tile[0], dim=0)
        for row in slab.split(tile[1], dim=1)
        for block in row.split(tile[2], dim=2)
    ]


def per_frame(x: Tensor, grid: Grid) -> Tensor:
    """[F'] of something per frame to [V]."""
    return repeat(x, "f -> (f p)", p=grid.height * grid.width)
