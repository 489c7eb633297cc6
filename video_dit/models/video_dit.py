"""VideoDiT: latents and prompts to a prediction, through any of the backbones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from video_dit.config import ModelConfig
from video_dit.contracts import ClipInfo, TextCondition
from video_dit.errors import UserError
from video_dit.models.backbone import Backbone
from video_dit.models.context import Context, batch_masks, packed_masks, repeats_text, token_order
from video_dit.models.dit import DiT
from video_dit.models.embeddings import ConditioningEmbedder, PositionEmbedding, patchify, unpatchify
from video_dit.models.mmdit import MMDiT
from video_dit.models.sd3 import Checkpoint, load_spatial, model_keys, read_checkpoint, renamed
from video_dit.models.u_vit import UViT
from video_dit.ops.linear import Linear
from video_dit.ops.normalization import AdaLayerNormContinuous, Conditioning
from video_dit.ops.position import Rotary
from video_dit.parallel import SequenceGroup
from video_dit.shapes import Grid, token_grid

_BACKBONES: dict[str, type[Backbone]] = {"mmdit": MMDiT, "dit": DiT, "cross_dit": DiT, "u_vit": UViT}


class VideoDiT(nn.Module):
    """A transformer over video and text tokens; the ends are the same for every backbone.

    Args:
        config: the [model] table.
        channels: C of the latents, in and out.
        text_width: Dt of the text embeddings.
        pooled_width: Dp of the pooled text embedding.
        trained_grid: tokens of a clip in training; see `PositionEmbedding`.

    Attributes:
        sequence_group: ranks that share the tokens of each clip, and all get the same inputs; None: this one alone.
    """

    def __init__(
        self, config: ModelConfig, *, channels: int, text_width: int, pooled_width: int, trained_grid: Grid
    ) -> None:
        super().__init__()
        self.config = config
        patch_cells = Grid(*config.patch_size).size
        self.video_embedder = Linear((channels + config.given_frames) * patch_cells, config.hidden_size)
        self.text_embedder = Linear(text_width, config.hidden_size)
        self.conditioning_embedder = ConditioningEmbedder(config, pooled_width)
        self.position_embedding = PositionEmbedding(config, trained_grid)
        self.backbone = _BACKBONES[config.name](config)
        self.norm_out = AdaLayerNormContinuous(config.hidden_size)
        self.proj_out = Linear(config.hidden_size, channels * patch_cells)
        self.sequence_group: SequenceGroup | None = None
        self._initialize()

    @classmethod
    def from_sd3(
        cls,
        source: str | Path | nn.Module,
        *,
        num_frames: int = 16,
        channels: int | None = None,
        text_width: int | None = None,
        pooled_width: int | None = None,
        **changes: Any,
    ) -> "VideoDiT":
        """A video model with the weights of an SD3 or SD3.5 image model.

        Its blocks within frames are the image model's; those through time start as the identity, so that frame by
        frame it equals the image model. Ends of another width than the checkpoint's start afresh.

        Args:
            source: a checkpoint folder in diffusers' format, or an SD3Transformer2DModel.
            num_frames: latent frames of a clip in training, for the learned places in time.
            channels, text_width, pooled_width: of the latents and of the text encoder; None: the checkpoint's.
            changes: other keys of [model], such as `recompute_blocks`.

        Raises:
            UserError: this is no SD3 checkpoint.
        """
        if isinstance(source, nn.Module):
            checkpoint = Checkpoint(dict(source.config), source.state_dict())  # type: ignore[arg-type]
        else:
            checkpoint = read_checkpoint(Path(source))
        sd3 = checkpoint.config
        side = sd3["sample_size"] // sd3["patch_size"]
        model = cls(
            ModelConfig(**{**model_keys(sd3), **changes}),
            channels=channels or sd3["in_channels"],
            text_width=text_width or sd3["joint_attention_dim"],
            pooled_width=pooled_width or sd3["pooled_projection_dim"],
            trained_grid=Grid(num_frames, side, side),
        )
        load_spatial(model, renamed(checkpoint))
        return model

    def _initialize(self) -> None:
        """Xavier for linear layers, except those that start at zero (arXiv 2212.09748, section 3.2)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and "norm" not in name:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.proj_out.weight)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: TextCondition,
        clip: ClipInfo | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            latents: [B, C, F, H, W] noised latents; F, H and W multiples of the patch size.
            t: [B] in [0, 1], 0 is data and 1 is noise; or [B, F/pt], one for the frames of each token.
            text: embeds [B, L, Dt], mask [B, L], pooled [B, Dp].
            clip: where the clips come from; see `ModelConfig.conditions` and `reference_fps`.
            given: [B, F] bool, true on frames that are clean; their tokens have t = 0. For `given_frames` alone; None:
                no frame is.

        Returns:
            [B, C, F, H, W], the prediction; what it means is the objective's affair.

        Raises:
            UserError: the latents fit neither the patches nor the learned positions, there are other timesteps than one
                or one per frame of tokens, one per frame meets a backbone without adaptive norms, or frames are given
                to a model without `given_frames`.
        """
        config = self.config
        grid = token_grid(Grid(*latents.shape[2:]), config.patch_size)
        if config.given_frames:
            given = latents.new_zeros(len(latents), latents.shape[2], dtype=torch.bool) if given is None else given
            latents, t = self._mark_given(latents, t, given)
        elif given is not None:
            raise UserError("frames are given to a model that was built with model.given_frames = false")
        t = t.view(len(t), -1)
        if t.shape[1] not in (1, grid.frames):
            raise UserError(
                f"there are {t.shape[1]} timesteps for {grid.frames} frames of tokens: give 1 or {grid.frames}"
            )
        if t.shape[1] > 1 and not config.has_adaptive_norms:
            raise UserError(f"a timestep per frame needs adaptive norms, which model.name = {config.name} lacks here")

        video, rotary = self._embed_video(latents, grid, clip)
        text_tokens, text_mask, vectors = self._embed_conditions(t, text, clip)
        video_conditioning = text_conditioning = Conditioning(vectors)
        if repeats_text(config):
            text_tokens = text_tokens.repeat(1, grid.frames, 1)
        if t.shape[1] > 1:
            video_conditioning, text_conditioning = self._per_frame(vectors, t, text_tokens, grid)
        masks = batch_masks(config, grid, text_mask)
        context = Context(video_conditioning, text_conditioning, masks, rotary, config.attention_backend)
        order = token_order(config, grid, latents.device)
        if order is not None:
            video, context = video[:, order], context.of_video_tokens(order)
        if self.sequence_group is not None:
            shard = self.sequence_group.shard(video.shape[1])
            video, context = video[:, shard.part], context.of_video_tokens(shard.part)._replace(shard=shard)
        patches = self._predict(video, text_tokens, context)
        if context.shard is not None:
            patches = context.shard.gather(patches)
        if order is not None:
            patches = patches[:, order.argsort()]
        return unpatchify(patches, grid, config.patch_size)

    def forward_packed(
        self, clips: Sequence[Tensor], t: Tensor, text: TextCondition, clip: ClipInfo | None = None
    ) -> list[Tensor]:
        """Clips of different length and size in one sequence without padding; each sees itself alone.

        Args:
            clips: of [C, F, H, W] noised latents each.
            t: [B] in [0, 1], one for each.
            text: one row for each.
            clip: where the clips come from.

        Returns:
            what `forward` gives for each alone, [C, F, H, W] each.

        Raises:
            UserError: the model has an attention pattern, given frames or a split text, or a clip does not fit.
        """
        config = self.config
        if config.attention_pattern != "full" or config.given_frames or config.text_split is not None:
            raise UserError(
                "packed batches need model.attention_pattern = full, model.given_frames = false and no model.text_split"
            )
        grids = [token_grid(Grid(*latents.shape[1:]), config.patch_size) for latents in clips]
        videos, rotaries = [], []
        for index, (latents, grid) in enumerate(zip(clips, grids, strict=True)):
            own_info = clip and ClipInfo(*(tensor[index : index + 1] for tensor in clip))
            video, rotary = self._embed_video(latents[None], grid, own_info)
            videos.append(video[0])
            rotaries.append(rotary and tuple(part.view(-1, part.shape[-1]) for part in rotary))
        text_tokens, text_mask, vectors = self._embed_conditions(t[:, None], text, clip)
        video_lengths, text_lengths = [grid.size for grid in grids], text_mask.sum(1).tolist()

        def conditioning(lengths: list[int]) -> Conditioning:
            clip_of_token = torch.arange(len(clips), device=t.device).repeat_interleave(
                torch.tensor(lengths, device=t.device)
            )
            return Conditioning(vectors.transpose(0, 1), clip_of_token)

        context = Context(
            conditioning(video_lengths),
            conditioning(text_lengths),
            packed_masks(video_lengths, text_lengths, t.device),
            (torch.cat([r[0] for r in rotaries]), torch.cat([r[1] for r in rotaries])) if config.rotary else None,
            config.attention_backend,
        )
        patches = self._predict(torch.cat(videos)[None], text_tokens[text_mask][None], context)
        return [
            unpatchify(part, grid, config.patch_size)[0]
            for part, grid in zip(patches.split(video_lengths, dim=1), grids, strict=True)
        ]

    def _embed_video(self, latents: Tensor, grid: Grid, clip: ClipInfo | None) -> tuple[Tensor, Rotary | None]:
        tokens = self.video_embedder(patchify(latents, self.config.patch_size))
        positions = self.position_embedding.positions(grid, clip, latents.device)
        added = self.position_embedding.added(grid, positions)
        if added is not None:
            tokens = tokens + added.type_as(tokens)
        return tokens, self.position_embedding.rotary(grid, positions)

    def _embed_conditions(self, t: Tensor, text: TextCondition, clip: ClipInfo | None) -> tuple[Tensor, Tensor, Tensor]:
        """Text tokens [B, L, D] and their mask [B, L], and the vectors [B, R, D] that steer adaptive norms.

        Where no norm is adaptive, timestep and pooled text come as two more tokens before the text.
        """
        tokens, mask = self.text_embedder(text.embeds), text.mask
        of_timestep, of_rest = self.conditioning_embedder(t, text.pooled, clip)
        if not self.config.has_adaptive_norms:
            tokens = torch.cat((of_timestep, of_rest, tokens), dim=1)
            mask = torch.cat((mask.new_ones(len(mask), 2), mask), dim=1)
        return tokens, mask, of_timestep + of_rest

    def _per_frame(
        self, vectors: Tensor, t: Tensor, text_tokens: Tensor, grid: Grid
    ) -> tuple[Conditioning, Conditioning]:
        """The text obeys the noisiest frame's timestep, or where each frame has a copy of it, that frame's."""
        frames = torch.arange(grid.frames, device=t.device)
        video = Conditioning(vectors, frames.repeat_interleave(grid.size // grid.frames))
        if repeats_text(self.config):
            return video, Conditioning(vectors, frames.repeat_interleave(text_tokens.shape[1] // grid.frames))
        noisiest = vectors[torch.arange(len(t), device=t.device), t.argmax(1)][:, None]
        every_token = torch.zeros(text_tokens.shape[1], dtype=torch.int64, device=t.device)
        return video, Conditioning(noisiest, every_token)

    def _mark_given(self, latents: Tensor, t: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """The latents with the mask channel, and t with 0 for the tokens all of whose frames are given."""
        _, _, _, height, width = latents.shape
        channel = repeat(given.to(latents), "b f -> b 1 f h w", h=height, w=width)
        whole = rearrange(given, "b (f pt) -> b f pt", pt=self.config.patch_size[0]).all(-1)
        return torch.cat((latents, channel), dim=1), torch.where(whole, 0, t.view(len(t), -1))

    def _predict(self, video: Tensor, text: Tensor, context: Context) -> Tensor:
        """Tokens [B, V, D] and [B, L, D] to patches [B, V, pt*ph*pw*C]."""
        video = self.backbone(video, text, context)
        (branch,) = self.norm_out(context.video_conditioning)
        return self.proj_out(branch.norm(video))
