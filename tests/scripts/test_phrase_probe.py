import pytest
import torch
from phrase_probe import PhraseProbe
from reference_clips import Reference
from scipy.stats import binomtest
from torch import Tensor

from video_dit.errors import UserError

LEVELS = {"of light skin": 220, "of medium skin": 140, "of dark skin": 60}


def clip(level: int, seed: int) -> Tensor:
    """Grey around a level, with white that says nothing."""
    pixels = level + torch.randint(-20, 20, (2, 8, 8, 3), generator=torch.Generator().manual_seed(seed))
    pixels[:, :4] = 255
    return pixels.to(torch.uint8)


def references() -> list[Reference]:
    spoken = [
        Reference("", f"a hand {phrase}", clip(level, seed)) for phrase, level in LEVELS.items() for seed in range(5)
    ]
    return [*spoken, Reference("", "a hand", clip(0, 0)), Reference("", "of light skin and of dark skin", clip(0, 0))]


def test_the_share_is_of_the_prompts_that_hold_one_phrase() -> None:
    probe = PhraseProbe([*LEVELS], references())
    clips = torch.stack([clip(220, 11), clip(140, 12), clip(60, 13), clip(60, 14), clip(60, 15)])
    prompts = ["of light skin", "of medium skin", "of dark skin", "of light skin", "a hand"]
    share = probe.score(clips, prompts)
    assert share.value == 0.75
    assert share[1:] == pytest.approx(tuple(binomtest(3, 4).proportion_ci(method="wilson")), abs=1e-4)
    with pytest.raises(UserError, match="no caption of --references holds a phrase of --probe"):
        probe.score(clips[:1], ["a hand"])


def test_phrases_that_say_nothing_are_told() -> None:
    with pytest.raises(UserError, match=r"--probe has the phrase 'of light skin' alone"):
        PhraseProbe(["of light skin"], references())
    with pytest.raises(UserError, match="no caption of --training holds 'of green skin' and no other phrase"):
        PhraseProbe(["of green skin", "of dark skin"], references())
