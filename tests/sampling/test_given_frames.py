"""Image to video, continuation and sliding windows."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import TINY
from random_run import random_run
from torch import Tensor

from video_dit.config import load_config
from video_dit.contracts import Posterior
from video_dit.errors import UserError
from video_dit.sampling.pipeline import SamplingWarning, VideoPipeline

MASK = ("model.given_frames=true", "diffusion.continuation=1.0")
MODELS = {
    "mask": MASK,
    "per-frame noise": ("model.patch_size=[1,8,8]", "diffusion.per_frame_noise=true"),
    "mask, haar": (*MASK, "autoencoder.name=haar", "model.patch_size=[1,4,4]", "data.num_frames=8"),
}
UNIT = {"mask": 1, "per-frame noise": 1, "mask, haar": 2}
"""Frames that are given together."""


def build(folder: Path, *keys: str) -> VideoPipeline:
    return VideoPipeline.from_run(random_run(folder, load_config(None, (*TINY, *keys))), device="cpu")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoPipeline]:
    return {name: build(tmp_path_factory.mktemp("run"), *keys) for name, keys in MODELS.items()}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, pipelines: dict[str, VideoPipeline]) -> tuple[VideoPipeline, int]:
    return pipelines[request.param], UNIT[request.param]


def picture(seed: int, *shape: int) -> Tensor:
    return torch.randint(256, (*shape, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def decoded_latents(pipeline: VideoPipeline, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A list that collects what the autoencoder is asked to decode."""
    latents: list[Tensor] = []
    decode = pipeline.autoencoder.decode
    monkeypatch.setattr(pipeline.autoencoder, "decode", lambda x: latents.append(x) or decode(x), raising=False)
    return latents


def as_latents(pipeline: VideoPipeline, frames: Tensor) -> Tensor:
    return pipeline.autoencoder.encode(frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).mean


def test_the_first_frame_is_the_image_and_the_others_follow_it(
    case: tuple[VideoPipeline, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, unit = case
    latents = decoded_latents(pipeline, monkeypatch)
    one, other = picture(1), picture(2)
    clip = pipeline("a", 3, image=one, num_steps=3)[0]
    held = one.expand(unit, -1, -1, -1)
    assert torch.equal(clip[:unit], held)
    assert torch.equal(latents[0][:, :, :1], as_latents(pipeline, held))
    assert not torch.equal(clip[unit:], pipeline("a", 3, image=other, num_steps=3)[0, unit:])
    assert not torch.equal(clip[unit:], pipeline("a", 4, image=one, num_steps=3)[0, unit:])


def test_the_last_frame_is_held_too(case: tuple[VideoPipeline, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, unit = case
    latents = decoded_latents(pipeline, monkeypatch)
    first, last = picture(1), picture(2)
    clip = pipeline("a", image=first, last_image=last, num_steps=3)[0]
    assert len(clip) == pipeline.config.data.num_frames
    assert torch.equal(clip[0], first)
    assert torch.equal(clip[-1], last)
    assert torch.equal(latents[0][:, :, -1:], as_latents(pipeline, last.expand(unit, -1, -1, -1)))
    alone = pipeline("a", last_image=last, num_steps=3)[0]
    assert torch.equal(alone[-1], last)
    assert not torch.equal(alone[:-unit], clip[:-unit])


def test_a_clip_is_continued_to_any_length(case: tuple[VideoPipeline, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, unit = case
    latents = decoded_latents(pipeline, monkeypatch)
    length, video = pipeline.config.data.num_frames, picture(1, 7)
    clip = pipeline("a", video=video, overlap=unit, num_frames=21, num_steps=2)[0]
    assert len(clip) == 21
    assert torch.equal(clip[:7], video)
    assert len(latents) == -(-(21 - 7) // (length - unit))
    assert torch.equal(latents[0][:, :, :1], as_latents(pipeline, video[7 - unit :]))
    for before, after in pairwise(latents):
        assert torch.equal(after[:, :, :1], before[:, :, -1:])
    assert not torch.equal(clip[7 : 7 + length - unit], clip[7 + length - unit : 7 + 2 * (length - unit)])


def test_a_clip_of_several_windows_begins_with_that_of_one(case: tuple[VideoPipeline, int]) -> None:
    pipeline, unit = case
    length = pipeline.config.data.num_frames
    short = pipeline("a", 5, num_steps=2)
    long = pipeline("a", 5, num_frames=3 * length, window=length, overlap=unit, num_steps=2)
    assert long.shape[1] == 3 * length
    assert torch.equal(long[:, :length], short)
    steps: list[int] = []
    pipeline(["a", "b"], num_frames=2 * length - unit, window=length, overlap=unit, num_steps=2, on_step=steps.append)
    assert steps == [2] * 4


def test_each_window_begins_without_a_step_cache(case: tuple[VideoPipeline, int]) -> None:
    pipeline, unit = case
    length = pipeline.config.data.num_frames
    pipeline.step_cache.num_skipped = 0
    settings = {"num_steps": 5, "guidance_scale": 1.0, "step_cache": 1e9}
    pipeline("a", num_frames=2 * length - unit, window=length, overlap=unit, **settings)
    assert pipeline.step_cache.num_skipped == 2 * (5 - 1)  # all but the first step of each of two windows


def test_given_frames_depend_on_no_neighbour(case: tuple[VideoPipeline, int]) -> None:
    pipeline, _ = case
    images = torch.stack([picture(1), picture(2)])
    together = pipeline(["a", "b"], [1, 2], image=images, num_steps=2)
    alone = pipeline("b", 2, image=images[1], num_steps=2, batch_size=1)
    assert (together[1].int() - alone[0].int()).abs().max() <= 1


class CausalAutoencoder:
    """Lossless: the first frame is a latent frame of its own, and then each two are one, side by side in channels."""

    stride, channels, causal, frame_step = (2, 1, 1), 6, True, 2

    def encode(self, pixels: Tensor) -> Posterior:
        first, others = pixels[:, :, :1], pixels[:, :, 1:]
        pairs = torch.cat((others[:, :, ::2], others[:, :, 1::2]), dim=1)
        return Posterior(torch.cat((first.repeat(1, 2, 1, 1, 1), pairs), dim=2), None)

    def decode(self, latents: Tensor) -> Tensor:
        even, odd = latents[:, :, 1:].chunk(2, dim=1)
        others = torch.stack((even, odd), dim=3).flatten(2, 3)
        return torch.cat((latents[:, :3, :1], others), dim=2)


def test_windows_after_a_causal_autoencoder_begin_like_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A latent frame from the middle of a window is two pixel frames, and cannot stand for the first of the next."""
    for room in ("random_run", "video_dit.sampling.pipeline"):
        monkeypatch.setattr(f"{room}.build_autoencoder", lambda *_: CausalAutoencoder())
    pipeline = build(tmp_path, *MASK, "data.num_frames=5", "model.patch_size=[1,8,8]")
    video = picture(1, 4)
    latents = decoded_latents(pipeline, monkeypatch)
    clip = pipeline("a", video=video, overlap=3, num_frames=8, num_steps=2)[0]
    assert torch.equal(clip[:4], video)
    assert torch.equal(latents[0][:, :, :2], as_latents(pipeline, clip[1:4]))
    assert torch.equal(latents[1][:, :, :2], as_latents(pipeline, clip[3:6]))
    clip = pipeline("a", image=picture(2), last_image=picture(3), num_steps=2)[0]
    assert torch.equal(latents[2][:, :, :1], as_latents(pipeline, picture(2)[None]))
    assert torch.equal(latents[2][:, :, -1:], as_latents(pipeline, picture(3).expand(3, -1, -1, -1))[:, :, -1:])
    assert torch.equal(clip[0], picture(2))
    assert torch.equal(clip[-2:], picture(3).expand(2, -1, -1, -1))


@pytest.mark.parametrize(("name", "takes_mask"), [("mask", True), ("per-frame noise", False)])
def test_the_model_is_told_which_frames_are_given(
    pipelines: dict[str, VideoPipeline], name: str, takes_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, calls = pipelines[name], []
    forward = pipeline.model.forward
    monkeypatch.setattr(pipeline.model, "forward", lambda *arguments: calls.append(arguments) or forward(*arguments))
    pipeline("a", video=picture(1, 2), overlap=2, num_frames=4, num_steps=2)
    for x_t, t, _, _, mask in calls:
        expected = torch.tensor([True, True, False, False]).expand(len(x_t), -1)
        assert torch.equal(mask if takes_mask else t == 0, expected)
        assert torch.equal(x_t[:, :, :2], as_latents(pipeline, picture(1, 2)).expand(len(x_t), -1, -1, -1, -1))


def test_a_model_that_never_saw_given_frames_gets_a_warning(tmp_path: Path) -> None:
    pipeline = build(tmp_path, "model.given_frames=true")
    with pytest.warns(SamplingWarning, match="never saw any in training"):
        pipeline("a", image=picture(1), num_steps=1)


def test_what_cannot_be_given_is_refused(pipelines: dict[str, VideoPipeline], tmp_path: Path) -> None:
    pipeline, haar = pipelines["mask"], pipelines["mask, haar"]
    image, video = picture(1), picture(1, 3)
    with pytest.raises(UserError, match=r"model.given_frames = true or diffusion.per_frame_noise = true"):
        build(tmp_path / "plain")("a", image=image)
    with pytest.raises(UserError, match=r"image is 16 x 16 pixels, and the clip 8 x 16"):
        pipeline("a", image=image, height=8)
    with pytest.raises(UserError, match=r"image is torch.float32 \[1, 16, 16, 3\], and must be uint8"):
        pipeline("a", image=image.float())
    with pytest.raises(UserError, match="image has 2 clips for 1 prompts"):
        pipeline("a", image=torch.stack([image, image]))
    with pytest.raises(UserError, match="a video is to be continued, and an image is given too"):
        pipeline("a", image=image, video=video)
    with pytest.raises(UserError, match=r"overlap is 1: of a window of 8 frames, use 2$"):
        haar("a", video=video, overlap=1)
    with pytest.raises(UserError, match="the video has 1 frames, and at least 2 must be given"):
        haar("a", video=video[:1])
    with pytest.raises(UserError, match="num_frames is 3, and 3 frames are given"):
        pipeline("a", video=video, num_frames=3)
    with pytest.raises(UserError, match="windows of 4 frames do not reach from the first frame to the last"):
        pipeline("a", last_image=image, num_frames=8, window=4)
    with pytest.raises(UserError, match="one window of 4 frames is the whole clip: leave overlap out"):
        pipeline("a", overlap=2)
    with pytest.raises(UserError, match=r"no frame can be given: .* one token long .*make the clip longer"):
        build(tmp_path / "long", "model.patch_size=[4,8,8]", "diffusion.per_frame_noise=true")("a", image=image)
