"""Scaled dot-product attention behind one contract."""

import torch.nn.functional as F
from torch import Tensor


def attention(q_BNSK: Tensor, k_BNSK: Tensor, v_BNSK: Tensor, key_mask_BS: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v.

    Args:
        q_BNSK: [B, N, S, K] queries.
        k_BNSK: [B, N, S', K] keys.
        v_BNSK: [B, N, S', K] values.
        key_mask_BS: [B, S'] bool, false on keys that no query may see; None when all are seen. At least one key of
            each row must be seen.

    Returns:
        [B, N, S, K].
    """
    attn_mask = None if key_mask_BS is None else key_mask_BS[:, None, None, :]
    return F.scaled_dot_product_attention(q_BNSK, k_BNSK, v_BNSK, attn_mask=attn_mask)
