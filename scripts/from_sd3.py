"""Makes the start of a video model from an SD3 or SD3.5 checkpoint: weights, and a config to train them with.

The blocks within frames are the image model's; those through time start as the identity. Where the config's autoencoder
or text encoder has other widths than the checkpoint's, those layers start afresh."""

import argparse
from pathlib import Path

import torch
from command_line import CONFIG_HELP, run_program
from safetensors.torch import save_file

from video_dit.config import dump, load_config
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.errors import UserError
from video_dit.files import write_atomically
from video_dit.models import VideoDiT
from video_dit.models.sd3 import read_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=CONFIG_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder in diffusers' format, of the pipeline or its transformer")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.toml and model.safetensors")
    parser.add_argument("--config", type=Path, help="TOML file of the data and encoders; its [model] must be empty")
    parser.add_argument("overrides", nargs="*", metavar="table.key=value", help="override a key of the config")
    args = parser.parse_intermixed_args()

    config = load_config(args.config, args.overrides)
    if "model" in config.model_fields_set:
        raise UserError("the [model] table comes from the checkpoint: leave it out of the config")
    if (args.out / "model.safetensors").exists():
        raise UserError(f"{args.out} already holds a model: give another --out")
    torch.manual_seed(config.seed)
    autoencoder, text_encoder = build_autoencoder(config.autoencoder), build_text_encoder(config.text_encoder)
    model = VideoDiT.from_sd3(
        args.checkpoint,
        num_frames=config.latent_grid.frames,
        channels=autoencoder.channels,
        text_width=text_encoder.width,
        pooled_width=text_encoder.pooled_width,
    )
    sd3 = read_config(args.checkpoint)
    widths = {
        "the latents": (autoencoder.channels, sd3["in_channels"]),
        "the text": (text_encoder.width, sd3["joint_attention_dim"]),
        "the pooled text": (text_encoder.pooled_width, sd3["pooled_projection_dim"]),
    }
    fresh = [f"{name} ({ours} for {theirs})" for name, (ours, theirs) in widths.items() if ours != theirs]
    weights = args.out / "model.safetensors"
    training = config.training.model_copy(update={"initial_weights": weights})
    config = config.model_copy(update={"model": model.config, "training": training})
    config.token_grid  # noqa: B018  (refuses clips that the patches do not fit, before anything is written)

    args.out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), weights)
    write_atomically(args.out / "config.toml", dump(config, whole=False))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{num_parameters / 1e6:.1f} M parameters, {model.config.depth} blocks within frames and as many through time"
    )
    if fresh:
        print(f"of another width than the checkpoint's, and so with fresh weights: the layers of {', '.join(fresh)}")
    print(f"train it with: deepspeed -q scripts/train.py --config {args.out / 'config.toml'} --data SHARDS --run RUN")


if __name__ == "__main__":
    run_program(main)
