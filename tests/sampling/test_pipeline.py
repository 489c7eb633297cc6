import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY
from PIL import Image
from random_run import random_run

from video_dit.config import Config, load_config
from video_dit.errors import UserError
from video_dit.frames import to_uint8
from video_dit.sampling.contact_sheet import contact_sheet
from video_dit.sampling.given_frames import read_image
from video_dit.sampling.pipeline import SamplingWarning, VideoPipeline
from video_dit.shapes import Grid

pytestmark = pytest.mark.filterwarnings("error::video_dit.sampling.pipeline.SamplingWarning")


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("run"), tiny_config)


@pytest.fixture(scope="module")
def pipeline(run: Path) -> VideoPipeline:
    return VideoPipeline.from_run(run, device="cpu")


def test_a_clip_has_the_size_of_training_unless_told_otherwise(pipeline: VideoPipeline) -> None:
    clip = pipeline("a red circle", num_steps=2)
    assert clip.shape == (1, 4, 16, 16, 3)
    assert clip.dtype == torch.uint8
    with pytest.warns(SamplingWarning, match="is larger than those of training"):
        assert pipeline(["a", "b"], num_steps=1, num_frames=2, height=24, width=32).shape == (2, 2, 24, 32, 3)
    with pytest.raises(UserError, match="height is 20"):
        pipeline("a", height=20)


def test_a_run_on_buckets_makes_a_clip_of_one_of_them(tmp_path: Path, tiny_config: Config) -> None:
    run = random_run(tmp_path, tiny_config, (Grid(2, 16, 8), 20), (Grid(2, 8, 16), 40))
    assert VideoPipeline.from_run(run, device="cpu")("a red circle", num_steps=1).shape == (1, 2, 8, 16, 3)


def test_a_clip_depends_on_its_own_prompt_and_seed(pipeline: VideoPipeline) -> None:
    prompts, seeds = ["a red circle", "a blue square", "a red circle"], [3, 3, 4]
    together = pipeline(prompts, seeds, num_steps=3, batch_size=2)
    for index in range(3):
        alone = pipeline(prompts[index], seeds[index], num_steps=3)[0]
        assert (alone.int() - together[index].int()).abs().max() <= 1  # rounding at a level's edge
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], together[2])


def test_the_same_seed_gives_the_same_clip_bit_for_bit(pipeline: VideoPipeline, run: Path) -> None:
    clip = pipeline("a red circle", 7)
    assert torch.equal(clip, pipeline("a red circle", 7))
    assert torch.equal(clip, VideoPipeline.from_run(run, device="cpu")("a red circle", 7))
    assert torch.equal(clip[0], pipeline(["a blue square", "a red circle"], [1, 7], batch_size=1)[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 1.0},
        {"num_steps": 5},
        {"solver": "heun"},
        {"solver": "stochastic_euler"},
        {"negative_prompt": "a square"},
        {"shift": 5.0},
        {"guidance_interval": (0.0, 0.5)},
        {"step_cache": 100.0},
    ],
    ids=str,
)
def test_each_setting_counts(pipeline: VideoPipeline, settings: dict) -> None:
    plain = pipeline("a red circle", num_steps=3)
    assert torch.equal(plain, pipeline("a red circle", num_steps=3))
    assert not torch.equal(plain, pipeline("a red circle", **{"num_steps": 3, **settings}))


def test_a_setting_that_does_not_exist_is_refused(pipeline: VideoPipeline) -> None:
    with pytest.raises(UserError, match=r"sampling.guidance_scal: unknown key; did you mean sampling.guidance"):
        pipeline("a", guidance_scal=2.0)
    with pytest.raises(UserError, match="num_steps = 0"):
        pipeline("a", num_steps=0)


@pytest.mark.parametrize("settings", [{"step_cache": 0.8}, {"solver": "stochastic_euler"}], ids=str)
def test_fresh_noise_and_the_step_cache_know_no_neighbour(pipeline: VideoPipeline, settings: dict) -> None:
    prompts, seeds = ["a", "b", "c"], [1, 2, 3]
    pipeline.step_cache.num_skipped = 0
    together = pipeline(prompts, seeds, num_steps=8, **settings)
    assert (pipeline.step_cache.num_skipped > 0) == ("step_cache" in settings)
    for index in range(3):
        alone = pipeline(prompts[index], seeds[index], num_steps=8, **settings)[0]
        assert (alone.int() - together[index].int()).abs().max() <= 1


def test_both_passes_of_guidance_have_a_step_cache_of_their_own(pipeline: VideoPipeline) -> None:
    settings = {"num_steps": 8, "step_cache": 0.8, "guidance_interval": (0.2, 1.0)}
    pipeline.step_cache.num_skipped = 0
    batched, apart = (pipeline("a red circle", **settings, guidance_batched=b).int() for b in (True, False))
    assert pipeline.step_cache.num_skipped > 0
    assert (batched - apart).abs().max() <= 1


def test_progress_counts_every_clip_s_steps(pipeline: VideoPipeline) -> None:
    done = []
    pipeline(["a", "b", "c"], num_steps=4, batch_size=2, on_step=done.append)
    assert sum(done) == 12


def test_the_text_encoder_leaves_the_device_before_the_model_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, events = VideoPipeline.from_run(run, device="cpu"), []
    encode, forward = pipeline.text_encoder.encode, pipeline.model.forward
    monkeypatch.setattr(pipeline.text_encoder, "encode", lambda prompts: events.append(prompts) or encode(prompts))
    monkeypatch.setattr(pipeline.text_encoder, "to", lambda device: events.append("moved"))
    monkeypatch.setattr(pipeline.model, "forward", lambda *args: events.append("model") or forward(*args))
    pipeline(["a", "b"], num_steps=1, batch_size=1)
    assert events == ["moved", ["a"], ["b"], [""], "moved", "model", "model"]
    pipeline("b", num_steps=1)
    assert events[7:] == ["model"]


def test_a_prompt_that_is_cut_is_said(pipeline: VideoPipeline) -> None:
    with pytest.warns(SamplingWarning, match="longer than its text encoder reads"):
        pipeline("one two three four five six seven eight nine", num_steps=1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_precision_can_be_chosen(precision: str, pipeline: VideoPipeline, run: Path) -> None:
    exact, rough = pipeline("a"), VideoPipeline.from_run(run, device="cpu", precision=precision)("a")
    assert not torch.equal(exact, rough)
    assert (exact.int() - rough.int()).abs().float().mean() < 3


def test_every_block_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, compiled, calls = (
        random_run(tmp_path, load_config(None, (*TINY, "model.attention_pattern=factorised"))),
        [],
        [],
    )

    def compile_(function: Callable, **_: Any) -> Callable:
        compiled.append(function)
        return lambda *arguments: calls.append(function) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_)
    plain, fast = (VideoPipeline.from_run(run, device="cpu", compile=c) for c in (False, True))
    assert torch.equal(plain("a", num_steps=1), fast("a", num_steps=1))
    assert len(compiled) == 4
    assert set(calls) == set(compiled)


def test_the_library_s_front_door_opens_when_it_is_used() -> None:
    code = "import sys, video_dit.errors; assert 'torch' not in sys.modules; from video_dit import VideoPipeline"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_weights_that_are_gone_are_said(run: Path) -> None:
    with pytest.raises(UserError, match=r"step-000009/ema.safetensors: there are no such weights"):
        VideoPipeline.from_run(run, weights="checkpoints/step-000009/ema.safetensors")


def test_levels_are_rounded_and_clamped() -> None:
    pixels = torch.tensor([-2.0, -1.0, -0.0001, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 1, 6).expand(1, 3, 1, 1, 6)
    assert to_uint8(pixels)[0, 0, 0, :, 0].tolist() == [0, 0, 127, 128, 255, 255]


def test_a_contact_sheet_shows_frames_of_each_clip_in_time() -> None:
    clips = np.zeros((2, 9, 32, 48, 3), dtype=np.uint8)
    clips += np.arange(9, dtype=np.uint8)[None, :, None, None, None] * 20
    sheet = np.asarray(contact_sheet(clips, ["first", "second"], num_columns=3))
    middles = sheet[80, [80, 80 + 148, 80 + 2 * 148], 0]  # 32 x 48 is magnified to 96 x 144, with gaps of 4
    assert middles.tolist() == [0, 80, 160]
    assert (sheet[:20] < 128).any()  # the label


def test_a_contact_sheet_takes_clips_of_all_sizes_and_long_prompts() -> None:
    clips = [np.full((2, 16, 16, 3), 50, dtype=np.uint8), np.full((5, 200, 300, 3), 99, dtype=np.uint8)]
    sheet = contact_sheet(clips, ["a prompt " * 99, "short"])
    assert sheet.size == (5 * 304 + 4, 4 + (22 + 96 + 4) + (22 + 200 + 4))
    assert sheet.getpixel((50, 50)) == (50, 50, 50)
    assert sheet.getpixel((5 * 304 - 2, 4 + 122 + 22 + 100)) == (99, 99, 99)


@pytest.mark.parametrize(
    ("prompts", "settings"),
    [([], {}), (["a", "b"], {"seed": [1]}), (["a"], {"negative_prompt": ["b", "c"]}), (["a"], {"batch_size": 0})],
)
def test_lists_that_do_not_match_are_refused(pipeline: VideoPipeline, prompts: list[str], settings: dict) -> None:
    with pytest.raises(UserError, match=rf"there are {len(prompts)} prompts, .*: give one prompt or more"):
        pipeline(prompts, **settings)


def test_a_seed_may_come_from_numpy(pipeline: VideoPipeline) -> None:
    assert torch.equal(pipeline("a", seed=np.int64(3), num_steps=1), pipeline("a", seed=3, num_steps=1))


def test_a_label_may_have_several_lines() -> None:
    clip = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    assert contact_sheet([clip], ["a\nb"]).size == contact_sheet([clip], ["a b"]).size


def test_an_image_of_16_bits_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 30_000, dtype=np.uint16)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", 8, 8).unique().tolist() == [30_000 // 256]
