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
    def of_groups(cls, groups: Iterable[tuple[Tensor, Tensor]], padding: Tensor | None = None) -> "AttentionMask":
        """From pairs of (queries [n], keys [m]), of any sizes."""
        by_size = defaultdict(list)
        for queries, keys in groups:
            by_size[len(queries), len(keys)].append((queries, keys))
        stacked = (Groups(*map(torch.stack, zip(*pairs, strict=True))) for pairs in by_size.values())
        return cls(padding, tuple(stacked))

    def dense(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        """The definition: [1 or B, 1, S, S'] bool, true where the query sees the key."""
        seen = torch.ones(1, 1, num_queries, num_keys, dtype=torch.bool, device=device)
        if self.groups is not None:
            seen = self._keys_of_group(num_keys)[self._group_of_query][None, None]
        return seen if self.padding is None else seen & self.padding[:, None, None]

    @cached_property
    def _group_of_query(self) -> Tensor:
        """[S] int64."""
        assert self.groups is not None
        queries = [row for group in self.groups for row in group.queries]
        group_of_query = torch.empty(sum(map(len, queries)), dtype=torch.int64, device=queries[0].device)
        for index, row in enumerate(queries):
            group_of_query[row] = index
        return group_of_query

    def _keys_of_group(self, num_keys: int) -> Tensor:
        """[G, S'] bool, over the groups of all sizes."""
        assert self.groups is not None
        keys = [row for group in self.groups for row in group.keys]
        seen = torch.zeros(len(keys), num_keys, dtype=torch.bool, device=keys[0].device)
        for index, row in enumerate(keys):
            seen[index, row] = True
        return seen

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

    @cached_property
    def _plans(self) -> dict[Any, Any]:
        """What a backend made of this mask, to be used again in every block of a forward pass."""
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
    return _choose(q_BNSK, k_BNSK, mask, backend)(q_BNSK, k_BNSK, v_BNSK, mask)


def _choose(q: Tensor, k: Tensor, mask: AttentionMask | None, backend: str) -> Attention:
    if backend == "auto" and q.is_cuda and mask is not None and mask.groups is not None:
        if mask.shares_keys:
            return _flex
        uneven = len(mask.groups) > 1
        return _xformers if uneven and _xformers_has_kernels() else _sdpa
    if backend == "xformers" and q.is_cuda and _xformers_has_kernels():
        return _xformers
    if backend == "flex" and (q.is_cuda or not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad))):
        return _flex
    return _sdpa


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    if mask.groups is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.dense(q.shape[2], k.shape[2], q.device))
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
    order = torch.cat([group.queries.flatten() for group in mask.groups]).argsort()
    return torch.cat(attended, dim=2)[:, :, order]


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """Groups become the blocks of one long sequence from which padding is left out (BlockDiagonalMask)."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    batch_size, _, num_queries, _ = q.shape
    if mask is None:
        rows = (rearrange(x, "b n s k -> b s n k") for x in (q, k, v))
        attended: Tensor = rearrange(memory_efficient_attention(*rows), "b s n k -> b n s k")
        return attended
    if "xformers" not in mask._plans:
        queries, keys = zip(*mask.blocks(batch_size, num_queries, k.shape[2]), strict=True)
        bias = BlockDiagonalMask.from_seqlens(list(map(len, queries)), list(map(len, keys)))
        mask._plans["xformers"] = torch.cat(queries), torch.cat(keys), bias
    queries, keys, bias = mask._plans["xformers"]
    q, k, v = (rearrange(x, "b n s k -> 1 (b s) n k") for x in (q, k, v))
    attended = memory_efficient_attention(q[:, queries], k[:, keys], v[:, keys], attn_bias=bias)[:, queries.argsort()]
    return rearrange(attended, "1 (b s) n k -> b n s k", b=batch_size)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
    """The groups as a table that FlexAttention looks a query and a key up in; blocks that nobody sees are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    if mask is not None and "flex" not in mask._plans:
        padding = mask.padding
        group_of_query = None if mask.groups is None else mask._group_of_query
        keys_of_group = None if mask.groups is None else mask._keys_of_group(k.shape[2])

        def sees(b: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = key >= 0
            if group_of_query is not None and keys_of_group is not None:
                seen = keys_of_group[group_of_query[query], key]
            return seen if padding is None else seen & padding[b, key]

        batch_size = None if padding is None else len(padding)
        mask._plans["flex"] = create_block_mask(sees, batch_size, None, q.shape[2], k.shape[2], device=q.device)
    block_mask = None if mask is None else mask._plans["flex"]
    attended: Tensor = _flex_attention(q.is_cuda)(q, k, v, block_mask=block_mask)
    return attended


@cache
def _flex_attention(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention  # type: ignore[return-value]


@cache
def _xformers_has_kernels() -> bool:
    """xformers may be installed and lack the kernels for this torch or this GPU."""
    if find_spec("xformers") is None:
        return False
    from xformers.ops import fmha

    return any(forward.is_available() for forward in (fmha.cutlass.FwOp, fmha.flash.FwOp))
