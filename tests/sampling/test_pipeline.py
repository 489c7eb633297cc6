from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from video_dit.config import Config
from video_dit.contracts import EncodedShape
from video_dit.encoders import build_autoencoder, build_text_encoder
from video_dit.errors import UserError
from video_dit.models import build_model
from video_dit.run_folder import RunFolder
from video_dit.sampling.contact_sheet import contact_sheet
from video_dit.sampling.pipeline import VideoPipeline, to_uint8


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, with random weights."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.open(tiny_config, "videos", ["a prompt"])
    torch.manual_seed(0)
    encoders = build_autoencoder(tiny_config.autoencoder), build_text_encoder(tiny_config.text_encoder)
    model = build_model(tiny_config, EncodedShape.of(tiny_config.data.grid, *encoders))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    run.checkpoint(1).mkdir()
    save_file(model.state_dict(), run.checkpoint(1) / "ema.safetensors")
    run.publish_checkpoint(run.checkpoint(1), keep=1)
    return run.path


@pytest.fixture(scope="module")
def pipeline(run: Path) -> VideoPipeline:
    return VideoPipeline.from_run(run, device="cpu")


def test_a_clip_has_the_size_of_training_unless_told_otherwise(pipeline: VideoPipeline) -> None:
    clip = pipeline("a red circle", num_steps=2)
    assert clip.shape == (1, 4, 16, 16, 3)
    assert clip.dtype == torch.uint8
    assert pipeline(["a", "b"], num_steps=1, num_frames=2, height=24, width=32).shape == (2, 2, 24, 32, 3)
    with pytest.raises(UserError, match="height is 20"):
        pipeline("a", height=20)


def test_a_clip_depends_on_its_own_prompt_and_seed(pipeline: VideoPipeline) -> None:
    prompts, seeds = ["a red circle", "a blue square", "a red circle"], [3, 3, 4]
    together = pipeline(prompts, seeds, num_steps=3, batch_size=2)
    for index in range(3):
        alone = pipeline(prompts[index], seeds[index], num_steps=3)[0]
        assert (alone.int() - together[index].int()).abs().max() <= 1  # rounding at a level's edge
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], together[2])


@pytest.mark.parametrize(
    "settings", [{"guidance_scale": 1.0}, {"num_steps": 5}, {"solver": "heun"}, {"negative_prompt": "a square"}]
)
def test_each_setting_counts(pipeline: VideoPipeline, settings: dict) -> None:
    plain = pipeline("a red circle", num_steps=3)
    assert torch.equal(plain, pipeline("a red circle", num_steps=3))
    assert not torch.equal(plain, pipeline("a red circle", **{"num_steps": 3, **settings}))


def test_progress_counts_every_clip_s_steps(pipeline: VideoPipeline) -> None:
    done = []
    pipeline(["a", "b", "c"], num_steps=4, batch_size=2, on_step=done.append)
    assert sum(done) == 12


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
