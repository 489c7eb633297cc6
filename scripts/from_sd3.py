"""Makes the start of a video model from an SD3 or SD3.5 checkpoint: weights, and a config to train them with.

The blocks within frames are the image model's; those through time start as the identity. Where the data's latents or
text embeddings have another width than the checkpoint's, the layers that read them start afresh.
"""

import argparse
from pathlib import Path

import torch
from command_line import run_program

from data.dataset_info import DatasetInfo
from video_dit.config import TrainingConfig, dump, load_config
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.models import VideoDiT
from video_dit.models.sd3 import read_config
from video_dit.models.weights import write_weights
from video_dit.shapes import token_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder in diffusers' format, of the pipeline or its transformer")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards that the model will be trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.toml and model.safetensors")
    parser.add_argument("--seed", type=int, default=0, help="of the weights that start afresh (default 0)")
    args = parser.parse_args()

    weights = args.out / "model.safetensors"
    if weights.exists():
        raise UserError(f"{args.out} already holds a model: give another --out")
    info = DatasetInfo.read(args.data)
    data, encoded = load_config(fixed=info.tables), info.encoded
    sd3 = read_config(args.checkpoint)
    torch.manual_seed(args.seed)
    model = VideoDiT.from_sd3(
        args.checkpoint,
        num_frames=encoded.grid.frames,
        channels=encoded.channels,
        text_width=encoded.text_width,
        pooled_width=encoded.pooled_width,
    )
    token_grid(encoded.grid, model.config.patch_size)

    args.out.mkdir(parents=True, exist_ok=True)
    write_weights(model.state_dict(), weights)
    config = data.model_copy(update={"model": model.config, "training": TrainingConfig(initial_weights=weights)})
    write_atomically(args.out / "config.toml", dump(config, whole=False))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{num_parameters / 1e6:.1f} M parameters, {model.config.depth} blocks within frames and as many through time"
    )
    widths = {
        "latents": (encoded.channels, sd3["in_channels"]),
        "text": (encoded.text_width, sd3["joint_attention_dim"]),
        "pooled text": (encoded.pooled_width, sd3["pooled_projection_dim"]),
    }
    fresh = [f"{name} ({ours} for {theirs})" for name, (ours, theirs) in widths.items() if ours != theirs]
    if fresh:
        print(f"of another width than the checkpoint's, so that their layers start afresh: {', '.join(fresh)}")
    command = f"deepspeed -q scripts/train.py --config {args.out / 'config.toml'} --data {args.data} --run RUN"
    print(f"train it with: {command}")


if __name__ == "__main__":
    run_program(main)
