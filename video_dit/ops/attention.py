"""Scaled dot-product attention behind one contract: which keys a query sees, and several ways to compute it."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, "AttentionMask | None"], Tensor]


class Groups(NamedTuple):
    """G groups of queries, each with the keys that it sees. Indices into the sequences, int64: [G, n] and [G, m]."""

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True)
class AttentionMask:
    """Which keys a query sees: those of its group that are not padding. Each query must see one.

    padding: [B, S'] bool, false on keys that no query of that row sees; None: there are none.
    groups: every query is in exactly one; None: all queries see all keys. Groups of one size stand together.
    """

    padding: Tensor | None = None
    groups: tuple[Groups, ...] | None = None

    @classmethod
    def of_groups(cls, groups: Iterable[tuple[Tensor, Tensor]], device: torch.device | None = None) -> "AttentionMask":
        """From pairs of (queries [n], keys [m]), of any sizes."""
        by_size = defaultdict(list)
        for pair in groups:
            by_size[len(pair[0]), len(pair[1])].append(pair)
        stacked = [[torch.stack(indices) for indices in zip(*pairs, strict=True)] for pairs in by_size.values()]
        return cls(groups=tuple(Groups(queries.to(device), keys.to(device)) for queries, keys in stacked))

    def dense(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        """The definition: [1 or B, 1, S, S'] bool, true where the query sees the key."""
        seen = torch.ones(1, 1, num_queries, num_keys, dtype=torch.bool, device=device)
        if self.groups is not None:
            seen = self._keys_of_group(num_keys)[self._group_of_query()][None, None]
        return seen if self.padding is None else seen & self.padding[:, None, None]

    @cached_property
    @torch.inference_mode(False)  # what is remembered may serve training, too
    def place_of_query(self) -> Tensor:
        """[S] int64: where each query stands when the groups are laid one after another."""
        assert self.groups is not None
        return torch.cat([group.queries.flatten() for group in self.groups]).argsort()

    def _group_of_query(self) -> Tensor:
        """[S] int64, over the groups of all sizes."""
        assert self.groups is not None
        sizes = [group.queries.shape[1] for group in self.groups for _ in group.queries]
        indices = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return indices.to(self.place_of_query.device)[self.place_of_query]

    def _keys_of_group(self, num_keys: int) -> Tensor:
        """[G, S'] bool, over the groups of all sizes."""
        assert self.groups is not None
        tables = []
        for group in self.groups:
            table = torch.zeros(len(group.keys), num_keys, dtype=torch.bool, device=group.keys.device)
            tables.append(table.scatter_(1, group.keys, True))
        return torch.cat(tables)

    @cached_property
    def shares_keys(self) -> bool:
        """Some key is seen by more than one group."""
        keys = [group.keys.flatten() for group in self.groups or ()]
        return bool(keys) and bool(torch.cat(keys).bincount().max() > 1)

    def blocks(self, batch_size: int, num_queries: int, num_keys: int) -> list[tuple[Tensor, Tensor]]:
        """The same as pairs of (queries, keys) into the batch laid out as one long row, without padding."""
        device = (self.groups[0].keys if self.groups else self.padding).device  # type: ignore[union-attr]
        everything = Groups(torch.arange(num_queries, device=device)[None], torch.arange(num_keys, device=device)[None])
        pairs = []
        for row in range(batch_size):
            for group in self.groups or (everything,):
                for queries, keys in zip(group.queries, group.keys, strict=True):
                    kept = keys if self.padding is None else keys[self.padding[row, keys]]
                    pairs.append((row * num_queries + queries, row * num_keys + kept))
        return pairs

    def as_function(self, num_keys: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same as a function of the indices of batch, head, query and key."""
        padding = self.padding
        group_of_query = None if self.groups is None else self._group_of_query()
        keys_of_group = None if self.groups is None else self._keys_of_group(num_keys)

        def sees(b: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = key >= 0
            if group_of_query is not None and keys_of_group is not None:
                seen = keys_of_group[group_of_query[query], key]
            return seen if padding is None else seen & padding[b, key]

        return sees

    @cached_property
    def plans(self) -> dict[Any, Any]:
        """What backends made of this mask, to be used again in the other blocks."""
        return {}


def attention(
    q_BNSK: Tensor, k_BNSK: Tensor, v_BNSK: Tensor, mask: AttentionMask | None = None, backend: str = "auto"
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v.

    Args:
        q_BNSK: [B, N, S, K] queries.
        k_BNSK: [B, N, S', K] keys.
        v_BNSK: [B, N, S', K] values.
        mask: which keys a query sees; None: all.
        backend: "sdpa", "xformers", "flex", or "auto" for what the device does best. Where a backend cannot run
            (xformers without a GPU, the backward pass of FlexAttention on a CPU), SDPA computes the same.

    Returns:
        [B, N, S, K].
    """
    return _choose(q_BNSK, k_BNSK, v_BNSK, mask, backend)(q_BNSK, k_BNSK, v_BNSK, mask)


def _choose(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None, backend: str) -> Attention:
    if backend == "auto" and q.is_cuda and mask is not None and mask.groups is not None:
        if mask.shares_keys:
            return _flex
        uneven = len(mask.groups) > 1
        return _xformers if uneven and _xformers_takes(q.device, q.dtype, q.shape[-1]) else _sdpa
    if backend == "xformers" and q.is_cuda and _xformers_takes(q.device, q.dtype, q.shape[-1]):
        return _xformers
    needs_gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if backend == "flex" and (q.is_cuda or not needs_gradients):
        return _flex
    return _sdpa


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    if mask.groups is None:
        seen = None if mask.padding is None else mask.padding[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    batch_size = len(q)
    attended = []
    for group in mask.groups:
        q_group, k_group, v_group = (
            rearrange(x[:, :, index], "b n g s k -> (b g) n s k")
            for x, index in ((q, group.queries), (k, group.keys), (v, group.keys))
        )
        seen = None
        if mask.padding is not None:
            seen = rearrange(mask.padding[:, group.keys], "b g s -> (b g) 1 1 s")
        output = F.scaled_dot_product_attention(q_group, k_group, v_group, attn_mask=seen)
        attended.append(rearrange(output, "(b g) n s k -> b n (g s) k", b=batch_size))
    return torch.cat(attended, dim=2)[:, :, mask.place_of_query]


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """Groups become the blocks of one long sequence from which padding is left out (BlockDiagonalMask)."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    batch_size, _, num_queries, _ = q.shape
    if mask is None:
        rows = (rearrange(x, "b n s k -> b s n k") for x in (q, k, v))
        attended: Tensor = rearrange(memory_efficient_attention(*rows), "b s n k -> b n s k")
        return attended
    if ("xformers", batch_size) not in mask.plans:
        with torch.inference_mode(False):
            queries, keys = zip(*mask.blocks(batch_size, num_queries, k.shape[2]), strict=True)
            bias = BlockDiagonalMask.from_seqlens(list(map(len, queries)), list(map(len, keys)))
            order = torch.cat(queries)
            mask.plans["xformers", batch_size] = order, order.argsort(), torch.cat(keys), bias
    order, place, keys, bias = mask.plans["xformers", batch_size]
    q, k, v = (rearrange(x, "b n s k -> 1 (b s) n k") for x in (q, k, v))
    attended = memory_efficient_attention(q[:, order], k[:, keys], v[:, keys], attn_bias=bias)[:, place]
    return rearrange(attended, "1 (b s) n k -> b n s k", b=batch_size)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """The groups as a table that FlexAttention looks a query and a key up in; blocks that nobody sees are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    make_mask, attend = create_block_mask, flex_attention
    if q.is_cuda:  # compiled, neither holds every query beside every key
        make_mask, attend = _compiled(create_block_mask), _compiled(flex_attention)
    if mask is not None and "flex" not in mask.plans:
        with torch.inference_mode(False):
            batch_size = None if mask.padding is None else len(mask.padding)
            sees = mask.as_function(k.shape[2])
            mask.plans["flex"] = make_mask(sees, batch_size, None, q.shape[2], k.shape[2], device=q.device)
    block_mask = None if mask is None else mask.plans["flex"]
    attended: Tensor = attend(q, k, v, block_mask=block_mask)
    return attended


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


@cache
def _xformers_takes(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """xformers may be installed and lack kernels for this torch, this GPU, these numbers or such heads."""
    if find_spec("xformers") is None:
        return False
    from xformers.ops import fmha

    x = torch.empty(1, 8, 1, head_size, device=device, dtype=dtype)
    return any(forward.supports(fmha.Inputs(x, x, x)) for forward in (fmha.cutlass.FwOp, fmha.flash.FwOp))
