"""Measures what an autoencoder loses: PSNR, SSIM and LPIPS between clips and what it makes of them."""

import argparse
import json
from collections import defaultdict
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from command_line import positive_int, progress_bar, run_program
from numpy.typing import NDArray
from reference_clips import read_references
from torch import Tensor

from data.dataset import ClipDataset
from data.dataset_info import Bucket
from data.latents import encode
from video_dit.config import load_config
from video_dit.contracts import Autoencoder
from video_dit.encoders import build_autoencoder
from video_dit.errors import UserError
from video_dit.evaluation.intervals import bootstrap_interval
from video_dit.evaluation.lpips import load_lpips, lpips
from video_dit.evaluation.similarity import psnr, ssim
from video_dit.files import write_atomically
from video_dit.frames import to_uint8
from video_dit.sampling.contact_sheet import contact_sheet

SHOWN = 8
"""Clips of the picture: the first, whatever they look like."""


def main() -> None:
    args = arguments()
    dataset = ClipDataset(args.shards, seed=0)
    if dataset.info.holds != "videos":
        raise UserError(f"{args.shards} holds latents, not frames: make it with preprocess.py --keep-videos")
    config = load_config(args.config, args.overrides, {"data": dataset.info.tables["data"]})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = build_autoencoder(config.autoencoder, device)
    lpips_network = load_lpips(args.lpips).to(device) if args.lpips else None

    for bucket in dataset.buckets:
        Bucket.of(bucket.pixels, autoencoder)  # refuses what it cannot take before anything is computed
    of_shapes = (read_references(args.shards, bucket.pixels, autoencoder, device) for bucket in dataset.buckets)
    clips = chain.from_iterable(islice(of_shape, args.clips) for of_shape in of_shapes)
    total = sum(min(count, args.clips) for count in dataset.counts)
    scores: defaultdict[str, list[Tensor]] = defaultdict(list)
    shown: dict[str, NDArray[np.uint8]] = {}
    for clip in progress_bar(clips, total=total, unit="clip", label="encoding and decoding"):
        original = clip.frames[None]
        decoded = decoded_again(original, autoencoder, device)
        scores["PSNR in dB"].append(psnr(decoded, original))
        scores["SSIM"].append(ssim(decoded, original))
        if lpips_network is not None:
            scores["LPIPS"].append(lpips(decoded, original, lpips_network))
        if len(shown) < 2 * SHOWN:
            shown |= {clip.id: original[0].numpy(), f"{clip.id}, decoded": decoded[0].numpy()}

    figures = summary({name: torch.cat(of_clips) for name, of_clips in scores.items()})
    values = {"autoencoder": config.autoencoder.model_dump(mode="json"), "shards": str(args.shards), **figures}
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / "autoencoder.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    contact_sheet([*shown.values()], [*shown]).save(args.out / "autoencoder.png")
    print(table(figures), args.out / "autoencoder.json", args.out / "autoencoder.png", sep="\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("shards", type=Path, help="folder of clips, made by preprocess.py --keep-videos")
    add("--out", type=Path, required=True, help="folder for the measures and a picture of the first clips")
    add("--config", type=Path, help="TOML file; its [autoencoder] is measured")
    add("--clips", type=positive_int, default=64, help="of each shape (default 64)")
    add("--lpips", type=Path, help="weights for LPIPS; scripts/fetch_metric_weights.py gets them")
    add("overrides", nargs="*", metavar="autoencoder.KEY=VALUE", help="keys that train.py --help lists")
    return parser.parse_intermixed_args()


@torch.no_grad()
def decoded_again(frames: Tensor, autoencoder: Autoencoder, device: torch.device) -> Tensor:
    """uint8 [B, F, H, W, 3] through the mean of the latents, in the precision of shards, and back."""
    latents = encode(frames.to(device), autoencoder).mean
    return to_uint8(autoencoder.decode(latents.float())).cpu()


def summary(scores: dict[str, Tensor]) -> dict[str, object]:
    """Means over clips with their intervals. The PSNR of a clip that comes back exactly is infinite: it is left out."""
    exact = scores["PSNR in dB"].isinf()
    figures: dict[str, object] = {"clips": len(exact), "clips that come back exactly": int(exact.sum())}
    for name, of_clips in scores.items():
        finite = of_clips[of_clips.isfinite()]
        figures[name] = bootstrap_interval(finite.numpy())._asdict() if len(finite) > 1 else None
    return figures


def table(figures: dict[str, object]) -> str:
    lines = [f"{figures['clips']} clips, {figures['clips that come back exactly']} of which come back exactly"]
    for name, interval in figures.items():
        if isinstance(interval, dict):
            lines.append("{name:12}{value:8.4g}  95% interval {low:.4g} to {high:.4g}".format(name=name, **interval))
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(main)
