"""The loss of a batch, and how it is spread over t."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from video_dit.config import Config
from video_dit.contracts import Batch, TextCondition, TextSegment
from video_dit.diffusion.objective import NUM_BINS, bin_of, diffusion_loss
from video_dit.diffusion.processes import build_process
from video_dit.errors import UserError
from video_dit.training.draws import Draws, draw, drop_conditions, trim_padding


class BatchLoss(NamedTuple):
    """
    mean: [], over the samples; what is trained on.
    of_samples: [B], without gradients.
    by_bin: [2, NUM_BINS]: of each part of [0, 1] that t can be in, the sum of the frames' losses, and their number.
    """

    mean: Tensor
    of_samples: Tensor
    by_bin: Tensor


def means(sums: Tensor) -> list[float | None]:
    """Of [2, N], sums and how many values each is of; None where there is none."""
    return [total / count if count else None for total, count in sums.T.tolist()]


class LossFunction:
    """What training and validation share: everything that a batch's loss depends on, but for the weights.

    Args:
        config: the run's config.
        empty_prompt: one row, what a dropped condition becomes.
        text_segments: where each text encoder's part of a condition is.
        device: where the model is.

    Raises:
        UserError: `diffusion.encoder_dropout` is for another number of text encoders.
    """

    def __init__(
        self, config: Config, empty_prompt: TextCondition, text_segments: tuple[TextSegment, ...], device: torch.device
    ) -> None:
        if config.diffusion.encoder_dropout and len(config.diffusion.encoder_dropout) != len(text_segments):
            raise UserError(
                f"diffusion.encoder_dropout has {len(config.diffusion.encoder_dropout)} shares, and the shards were "
                f"made with {len(text_segments)} text encoders "
                f"({', '.join(segment.name for segment in text_segments)}): give one for each, or leave it out"
            )
        self.config = config
        self.empty_prompt = empty_prompt
        self.text_segments = text_segments
        self.device = device
        self.process = build_process(config.diffusion)

    def of_data(self) -> "LossFunction":
        """The same, but that the loss is the mean squared error of the data, whatever is predicted and trained on."""
        diffusion = self.config.diffusion.model_copy(update={"loss": "data", "weighting": "none"})
        config = self.config.model_copy(update={"diffusion": diffusion})
        return LossFunction(config, self.empty_prompt, self.text_segments, self.device)

    def __call__(self, model: nn.Module, batch: Batch) -> BatchLoss:
        """The loss of samples under their own draws."""
        return self.of_draws(model, batch, self.draws(batch))

    def draws(self, batch: Batch) -> Draws:
        """What is random about the samples."""
        return draw(batch, self.config, len(self.text_segments))

    def of_draws(self, model: nn.Module, batch: Batch, draws: Draws) -> BatchLoss:
        text = drop_conditions(batch.text, self.empty_prompt, draws.dropped, self.text_segments)
        t_of_frames = draws.t_of_frames().to(self.device)
        latents, noise, t, given = (x.to(self.device) for x in (batch.latents, draws.noise, draws.t, draws.given))
        output = model(
            self.process.add_noise(latents, noise, t_of_frames),
            self._timesteps(t, given),
            trim_padding(text).to(self.device),
            batch.clip.to(self.device),
            given if self.config.model.given_frames else None,
        )
        losses = diffusion_loss(self.process, output, latents, noise, t_of_frames, self.config.diffusion)
        counted = ~given
        of_samples = (losses * counted).sum(1) / counted.sum(1)
        by_bin = torch.zeros(2, NUM_BINS, device=self.device)
        bins = bin_of(t_of_frames).flatten()
        by_bin[0].index_add_(0, bins, (losses.detach() * counted).flatten())
        by_bin[1].index_add_(0, bins, counted.to(by_bin.dtype).flatten())
        return BatchLoss(of_samples.mean(), of_samples.detach(), by_bin)

    def _timesteps(self, t: Tensor, given: Tensor) -> Tensor:
        """What the model is told. One with a mask channel sets the t of given frames itself."""
        if not self.config.diffusion.per_frame_noise:
            return t
        whole = given.view(*t.shape, -1).all(-1)
        return torch.where(whole, 0, t)
