"""As a program: a plain PyTorch loop around a transformer, at the side of which training is measured.

Prints a JSON object for every few steps: the seconds of one on average, and the bytes at the peak.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from command_line import run_program
from einops import rearrange
from model_inputs import first_batches
from model_speed import import_diffusers
from torch import Tensor, nn

from data.dataset import ClipDataset
from video_dit.config import Config, load_config
from video_dit.contracts import Batch, EncodedShape, TextCondition
from video_dit.errors import UserError
from video_dit.models import build_model
from video_dit.precision import autocast
from video_dit.training.draws import trim_padding
from video_dit.training.meter import peak_memory

BATCHES = 8
"""That are held in memory and come again and again."""

Predict = Callable[[Tensor, Tensor, TextCondition], Tensor]
"""x_t, t and the texts, to what the model says in the shape of x_t."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="folder of shards of latents; those of its first shape are taken")
    parser.add_argument("--config", type=Path, help="as scripts/train.py takes it")
    parser.add_argument("--model", choices=("ours", "diffusers"), default="diffusers", help="whose transformer")
    parser.add_argument("overrides", nargs="*", metavar="table.key=value", help="override a key of the config")
    args = parser.parse_intermixed_args()

    dataset = ClipDataset(args.shards, seed=0)
    config = load_config(args.config, args.overrides, fixed=dataset.info.tables)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    model, predict = (our_model if args.model == "ours" else sd3)(config, dataset.info.encoded)
    model.to(device)
    batches = [*islice(first_batches(dataset, config.training.batch_size), BATCHES)]
    seconds = loop(model, predict, islice(cycle(batches), config.training.steps), config, device)
    while some := [*islice(seconds, config.training.log_every)]:
        print(json.dumps({"step_seconds": mean(some), "peak_memory": peak_memory(device)}), flush=True)


def our_model(config: Config, encoded: EncodedShape) -> tuple[nn.Module, Predict]:
    model = build_model(config, encoded)
    if config.training.compile:
        model.backbone.compile_blocks()
    return model, lambda latents, t, text: model(latents, t, text)


def sd3(config: Config, encoded: EncodedShape) -> tuple[nn.Module, Predict]:
    """diffusers' transformer of equal size on the same tokens.

    It knows images alone. A token's frames are its channels, and the frames of tokens one below the other.

    Raises:
        UserError: tokens are not square.
    """
    frames, height, width = config.model.patch_size
    if height != width:
        raise UserError(f"model.patch_size is {config.model.patch_size}, and diffusers' patches are square: make it so")
    heads, channels = config.model.num_heads, encoded.channels * frames
    rows, columns = encoded.grid.frames // frames * encoded.grid.height, encoded.grid.width
    model = import_diffusers().SD3Transformer2DModel(
        sample_size=columns, patch_size=width, in_channels=channels, out_channels=channels,
        num_layers=config.model.depth, num_attention_heads=heads, attention_head_dim=config.model.hidden_size // heads,
        caption_projection_dim=config.model.hidden_size, joint_attention_dim=encoded.text_width,
        pooled_projection_dim=encoded.pooled_width, pos_embed_max_size=max(rows, columns) // width,
        qk_norm="rms_norm" if config.model.qk_norm == "rms" else None,
    )  # fmt: skip
    if config.training.compile:
        for block in model.transformer_blocks:
            block.compile()

    def predict(latents: Tensor, t: Tensor, text: TextCondition) -> Tensor:
        image = rearrange(latents, "b c (f pt) h w -> b (c pt) (f h) w", pt=frames)
        output = model(image, text.embeds, text.pooled, 1000 * t[:, 0], return_dict=False)[0]
        return rearrange(output, "b (c pt) (f h) w -> b c (f pt) h w", pt=frames, h=latents.shape[3])

    return model, predict


def loop(
    model: nn.Module, predict: Predict, batches: Iterable[Batch], config: Config, device: torch.device
) -> Iterator[float]:
    """Rectified flow with AdamW, and nothing else; gives the seconds of each step."""
    training = config.training
    optimizer = torch.optim.AdamW(
        model.parameters(), training.learning_rate, training.betas, weight_decay=training.weight_decay, fused=True
    )
    for batch in batches:
        start = time.perf_counter()
        latents, text = batch.latents.to(device), trim_padding(batch.text).to(device)
        noise, t = torch.randn_like(latents), torch.rand(len(latents), 1, device=device)
        along = t.view(-1, 1, 1, 1, 1)
        with autocast(device, training.precision):
            output = predict((1 - along) * latents + along * noise, t, text)
        loss = F.mse_loss(output.float(), noise - latents)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        yield time.perf_counter() - start


if __name__ == "__main__":
    run_program(main)
