"""Which of some phrases, such as colours, a clip's colours stand for, by a probe that is fitted to captioned clips."""

import re
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
        phrases: two or more, of whole words: "light" is not in "medium-light". A caption that holds none of them, or
            several, says nothing of its clip.
        references: to fit it to, one after another, as there may be many.

    Raises:
        UserError: a phrase is in no caption, or only with others.
    """

    def __init__(self, phrases: Sequence[str], references: Iterable[Reference]) -> None:
        self._patterns = [re.compile(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])") for phrase in phrases]
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
        held = [index for index, pattern in enumerate(self._patterns) if pattern.search(caption)]
        return held[0] if len(held) == 1 else None

    def phrases_in(self, captions: Sequence[str]) -> dict[int, int]:
        """The indices of the captions that hold one phrase, and of that phrase.

        Raises:
            UserError: there are none.
        """
        found = {index: self.phrase_in(caption) for index, caption in enumerate(captions)}
        held = {index: phrase for index, phrase in found.items() if phrase is not None}
        if not held:
            raise UserError(
                f"of {len(captions)} captions of --references that are compared none holds one phrase of --probe: give "
                "others, or more --clips"
            )
        return held

    def score(self, clips: Tensor, prompts: Sequence[str]) -> Interval:
        """The share of clips that the probe takes for what their prompt holds, of those that hold a phrase.

        Args:
            clips: uint8 [N, F, H, W, 3].
            prompts: N, what they show.

        Raises:
            UserError: no prompt holds a phrase.
        """
        asked = self.phrases_in(prompts)
        seen = self._probe.predict(colour_histogram(clips[[*asked]]))
        right = int((seen == torch.tensor([*asked.values()])).sum())
        return Interval(right / len(asked), *wilson_interval(right, len(asked)))
