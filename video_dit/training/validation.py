"""The loss on clips that are not trained on, with the same noise each time."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from video_dit.contracts import Batch
from video_dit.diffusion.objective import NUM_BINS
from video_dit.training.draws import Draws
from video_dit.training.loss import LossFunction, means

NOISE_RATIOS = (0.5, 1.0, 2.0, 4.0)
"""sigma / alpha, at which the error of the predicted data is measured."""


class Validation(NamedTuple):
    """Sums over frames of clips, and the numbers of those.

    by_bin: [2, NUM_BINS], of the loss at the middle of each of the `NUM_BINS` parts of [0, 1].
    data_error: [2, len(NOISE_RATIOS)], of the mean squared error of the predicted data: the same question to every
        process and prediction, which the loss is not.
    """

    by_bin: Tensor
    data_error: Tensor

    def figures(self) -> dict[str, Any]:
        """The means: of the loss, over and in the parts of [0, 1], and of the error, over and at the ratios; JSON."""
        by_t, by_ratio = means(self.by_bin), means(self.data_error)
        return {
            "loss": sum(by_t) / len(by_t), "loss_by_t": by_t, "data_error": sum(by_ratio) / len(by_ratio),
            "data_error_by_noise_ratio": dict(zip(NOISE_RATIOS, by_ratio, strict=True)),
        }  # fmt: skip


@torch.no_grad()
def validate(model: nn.Module, loss_function: LossFunction, batches: Iterable[tuple[Batch, Tensor]]) -> Validation:
    """Noise is drawn from each clip's seed alone.

    Args:
        model: asked equally often on every rank.
        loss_function: that of training.
        batches: this rank's, each with [B] bool, false on rows that are there to fill the batch.
    """
    by_bin = torch.zeros(2, NUM_BINS, device=loss_function.device)
    data_error = torch.zeros(2, len(NOISE_RATIOS), device=loss_function.device)
    of_data = loss_function.of_data()
    was_training = model.training
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

        def draws(t: float, noise: Tensor = noise, given: Tensor = given, kept: Tensor = kept) -> Draws:
            return Draws(noise, torch.full((len(noise), 1), t), given, kept)

        for index in range(NUM_BINS):
            by_bin += loss_function.of_draws(model, batch, draws((index + 0.5) / NUM_BINS)).by_bin
        for index, t in enumerate(loss_function.process.t_of_ratio(torch.tensor(NOISE_RATIOS)).tolist()):
            data_error[:, index] += of_data.of_draws(model, batch, draws(t)).by_bin.sum(1)
    model.train(was_training)
    return Validation(by_bin, data_error)
