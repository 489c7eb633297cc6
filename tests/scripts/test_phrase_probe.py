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
    with pytest.raises(UserError, match="of 1 captions of --references that are compared none holds one phrase"):
        probe.score(clips[:1], ["a hand"])


def test_a_phrase_is_of_whole_words_and_alone() -> None:
    probe = PhraseProbe([*LEVELS], references())
    assert probe.phrase_in("a hand of medium skin") == 1
    assert probe.phrase_in("a hand of medium skinned people") is None
    assert probe.phrase_in("of light skin and of dark skin") is None
    colours = PhraseProbe(["light", "dark"], [reference for reference in references() if reference.caption != "a hand"])
    assert colours.phrase_in("of medium-light skin") is None


def test_phrases_that_say_nothing_are_told() -> None:
    with pytest.raises(UserError, match="no caption of --training holds 'of green skin' and no other phrase"):
        PhraseProbe(["of green skin", "of dark skin"], references())
