"""Clips that training makes of its averaged weights while it goes on."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from shapes_score import score, shapes_asked_for
from torch import Tensor

from data.video import write_mp4
from video_dit.config import Config
from video_dit.files import write_atomically
from video_dit.models.weights import merge_adapters, with_frozen
from video_dit.run_folder import RunFolder, TrainingData
from video_dit.sampling.contact_sheet import contact_sheet
from video_dit.sampling.outputs import slug, write_gif
from video_dit.sampling.pipeline import VideoPipeline
from video_dit.training.loop import SampleSource
from video_dit.training.progress import Samples
from video_dit.training.trackers import SampleClip


def sample_source(config: Config, data: TrainingData, run: RunFolder) -> SampleSource | None:
    """What makes the clips that `training.sample_every` asks for, and writes them into the run's folder; or None.

    They are made on the device of this rank, beside what training has there.
    """
    if config.training.sample_every == 0:
        return None

    def make(weights: dict[str, Tensor], step: int) -> Samples:
        prompts = prompts_of(config, run)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        whole = merge_adapters(with_frozen(weights, run.frozen_weights, "--run"), config.lora)
        pipeline = VideoPipeline(config, whole, data, device)
        clips = pipeline(prompts, list(range(len(prompts)))).numpy()
        measures = measured(prompts, clips)
        folder = run.samples(step)
        folder.mkdir(parents=True, exist_ok=True)
        made = [
            write(folder / f"{index:02d}-{slug(prompt)}.mp4", prompt, clip, config.data.fps)
            for index, (prompt, clip) in enumerate(zip(prompts, clips, strict=True))
        ]
        contact_sheet(list(clips), prompts).save(folder / "contact-sheet.png")
        table = {"step": step, "prompts": prompts, "measures": measures}
        write_atomically(folder / "samples.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n")
        return Samples(made, measures)

    return make


def prompts_of(config: Config, run: RunFolder) -> list[str]:
    """One for each clip; the n-th clip has the seed n."""
    known = config.training.sample_prompts or run.example_prompts.read_text(encoding="utf-8").splitlines() or [""]
    return [known[index % len(known)] for index in range(config.training.num_samples)]


def measured(prompts: list[str], clips: NDArray[np.uint8]) -> dict[str, float]:
    """Of moving shapes, the shares of clips that an oracle reads as asked, which wants squares; of others, nothing."""
    asked = shapes_asked_for(prompts)
    if asked is None or clips.shape[2] != clips.shape[3]:
        return {}
    shares = score(asked, clips)
    return {f"{name}_as_asked": shares[name] for name in ("all", "colour", "shape", "direction")}


def write(path: Path, prompt: str, clip: NDArray[np.uint8], fps: float) -> SampleClip:
    write_mp4(path, clip, fps)
    gif = BytesIO()
    write_gif(gif, clip, fps)
    return SampleClip(prompt, path, gif.getvalue(), clip.shape[1:3])
