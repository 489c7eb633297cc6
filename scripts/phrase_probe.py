"""Which of some phrases, such as colours, a clip's colours stand for, by a probe that is fitted to captioned clips."""

from collections.abc import Iterable, Sequence

import torch
from reference_clips import Reference
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.accuracy import wilson_interval
from video_dit.evaluation.colour_probe import LinearProbe, colour_histogram
from video_dit.evaluation.intervals import Interval


class PhraseProbe:
    """
    Args:
        phrases: two or more; a caption that holds none, or several, says nothing of its clip.
        references: to fit it to, one after another, as there may be many.

    Raises:
        UserError: there are too few phrases, or one is in no caption.
    """

    def __init__(self, phrases: Sequence[str], references: Iterable[Reference]) -> None:
        if len(phrases) < 2:
            raise UserError(f"--probe has the phrase {phrases[0]!r} alone: give two or more to tell apart")
        self.phrases = phrases
        features, labels = [], []
        for reference in references:
            if (phrase := self.phrase_in(reference.caption)) is not None:
                features.append(colour_histogram(reference.frames[None]))
                labels.append(phrase)
        if missing := [phrase for index, phrase in enumerate(phrases) if index not in labels]:
            raise UserError(
                f"no caption of --training holds {missing[0]!r} and no other phrase of --probe: give others"
            )
        self._probe = LinearProbe(torch.cat(features), torch.tensor(labels))

    def phrase_in(self, caption: str) -> int | None:
        """The index of the one phrase that is in the caption."""
        held = [index for index, phrase in enumerate(self.phrases) if phrase in caption]
        return held[0] if len(held) == 1 else None

    def score(self, clips: Tensor, prompts: Sequence[str]) -> Interval:
        """The share of clips that the probe takes for what their prompt holds, of those that hold a phrase.

        Args:
            clips: uint8 [N, F, H, W, 3].
            prompts: N, what they show.

        Raises:
            UserError: no prompt holds a phrase.
        """
        phrases = [self.phrase_in(prompt) for prompt in prompts]
        rows = [row for row, phrase in enumerate(phrases) if phrase is not None]
        if not rows:
            raise UserError("no caption of --references holds a phrase of --probe: give others, or leave it out")
        asked = torch.tensor([phrases[row] for row in rows])
        right = int((self._probe.predict(colour_histogram(clips[rows])) == asked).sum())
        return Interval(right / len(rows), *wilson_interval(right, len(rows)))
