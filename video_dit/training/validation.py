"""The loss on clips that are not trained on, with the same noise each time."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from video_dit.contracts import Batch
from video_dit.diffusion.objective import NUM_BINS
from video_dit.training.draws import Draws
from video_dit.training.loss import LossFunction


@torch.no_grad()
def validation_loss(model: nn.Module, loss_function: LossFunction, batches: Iterable[tuple[Batch, Tensor]]) -> Tensor:
    """Of each clip, at the middle of each of the `NUM_BINS` parts of [0, 1]; noise is drawn from the clip's seed alone.

    Args:
        model: asked equally often on every rank.
        loss_function: that of training.
        batches: this rank's, each with [B] bool, false on rows that are there to fill the batch.

    Returns:
        [2, NUM_BINS]; see `BatchLoss.by_bin`.
    """
    by_bin = torch.zeros(2, NUM_BINS, device=loss_function.device)
    model.eval()
    for batch, counted in batches:
        noise = torch.stack(
            [
                torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
                for latents, seed in zip(batch.latents, batch.seeds.tolist(), strict=True)
            ]
        )
        num_frames = noise.shape[2]
        given = (~counted)[:, None].expand(-1, num_frames)  # nothing of a given frame counts
        kept = torch.zeros(len(noise), len(loss_function.text_segments), dtype=torch.bool)
        for index in range(NUM_BINS):
            t = torch.full((len(noise), 1), (index + 0.5) / NUM_BINS)
            by_bin += loss_function.of_draws(model, batch, Draws(noise, t, given, kept)).by_bin
    model.train()
    return by_bin
