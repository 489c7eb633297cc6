"""MMDiT: patches and prompts through joint transformer blocks (Esser et al. 2024, arXiv 2403.03206, figure 2a)."""

from typing import Literal

from torch import Tensor, nn

from video_dit.contracts import TextCondition
from video_dit.errors import UserError
from video_dit.models.blocks import JointTransformerBlock, QKNorm
from video_dit.models.embeddings import TimestepAndTextEmbedding, patchify, unpatchify
from video_dit.ops.normalization import AdaLayerNormContinuous
from video_dit.ops.position import grid_positions, rotary_embedding, sincos_embedding, split_head
from video_dit.shapes import Grid, token_grid

PositionEmbedding = Literal["rotary", "sincos", "both"]


class MMDiT(nn.Module):
    """A joint spatio-temporal transformer over video and text tokens.

    The grid of the input is free at each call; nothing in the weights depends on it.

    Args:
        channels: C of the latents, in and out.
        text_width: Dt of the text embeddings.
        pooled_width: Dp of the pooled text embedding.
        patch_size: latent cells per token along (time, height, width).
        hidden_size: D.
        depth: number of blocks; the last one is `context_pre_only`.
        num_heads: N; must divide `hidden_size`.
        mlp_ratio: inner width of the feed-forward layers over D.
        qk_norm: normalization of queries and keys.
        position_embedding: "rotary" turns queries and keys by relative place, "sincos" adds the absolute place to the
            video tokens, "both" does both.
        feed_forward_chunk_size: tokens that a feed-forward layer takes at a time; None for all.
    """

    def __init__(
        self,
        *,
        channels: int,
        text_width: int,
        pooled_width: int,
        patch_size: tuple[int, int, int],
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qk_norm: QKNorm = "rms",
        position_embedding: PositionEmbedding = "both",
        feed_forward_chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise UserError(f"model.hidden_size is {hidden_size}, which model.num_heads = {num_heads} does not divide")
        if position_embedding != "sincos":
            split_head(hidden_size // num_heads)
        if position_embedding != "rotary" and hidden_size % 4:
            raise UserError(f"model.hidden_size is {hidden_size}, and must be a multiple of 4 for sincos embeddings")
        self.patch_size = patch_size
        self.rotates = position_embedding in ("rotary", "both")
        self.adds_sincos = position_embedding in ("sincos", "both")
        self.head_size = hidden_size // num_heads
        patch_width = channels * Grid(*patch_size).size
        self.video_embedder = nn.Linear(patch_width, hidden_size)
        self.text_embedder = nn.Linear(text_width, hidden_size)
        self.conditioning_embedder = TimestepAndTextEmbedding(pooled_width, hidden_size)
        self.blocks = nn.ModuleList(
            JointTransformerBlock(
                hidden_size,
                num_heads,
                mlp_ratio=mlp_ratio,
                qk_norm=qk_norm,
                context_pre_only=index == depth - 1,
                feed_forward_chunk_size=feed_forward_chunk_size,
            )
            for index in range(depth)
        )
        self.norm_out = AdaLayerNormContinuous(hidden_size)
        self.proj_out = nn.Linear(hidden_size, patch_width)
        self._initialize()

    def _initialize(self) -> None:
        """Xavier for linear layers, except those that start at zero (arXiv 2212.09748, section 3.2)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and "norm" not in name:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        """
        Args:
            latents: [B, C, F, H, W] noised latents; F, H and W multiples of the patch size.
            t: [B] in [0, 1], 0 is data and 1 is noise.
            text: embeds [B, L, Dt], mask [B, L], pooled [B, Dp].

        Returns:
            [B, C, F, H, W], the prediction; what it means is the objective's affair.

        Raises:
            UserError: the grid of the latents is not a multiple of the patch size.
        """
        grid = token_grid(Grid(*latents.shape[2:]), self.patch_size)
        positions = grid_positions(grid, latents.device)
        rotary = rotary_embedding(positions, self.head_size) if self.rotates else None
        video_tokens = self.video_embedder(patchify(latents, self.patch_size))
        if self.adds_sincos:
            video_tokens = video_tokens + sincos_embedding(positions, video_tokens.shape[-1]).type_as(video_tokens)
        text_tokens = self.text_embedder(text.embeds)
        conditioning = self.conditioning_embedder(t, text.pooled)
        for block in self.blocks:
            video_tokens, text_tokens = block(video_tokens, text_tokens, conditioning, text.mask, rotary)
        patches = self.proj_out(self.norm_out(video_tokens, conditioning))
        return unpatchify(patches, grid, self.patch_size)
