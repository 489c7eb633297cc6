"""A text encoder without weights and without a vocabulary."""

import re
from functools import lru_cache

import torch
from torch import Tensor

from video_dit.contracts import TextCondition, TextSegment
from video_dit.seeds import derive_seed

_WORD = re.compile(r"\w+|[^\w\s]")


class HashTextEncoder:
    """Each word is the normalized sum of random vectors, one for each of its character n-grams.

    The vectors are drawn from the hash of the n-gram, so that every word of every language has an embedding, words
    that share letters are near each other (Bojanowski et al. 2017, arXiv 1607.04606) and nothing is stored. A random
    code of the position is added, so that word order is seen. The pooled vector is the mean over the words without
    their positions. What the words mean is for the transformer to learn.

    Args:
        max_length: L, words and punctuation marks; longer prompts are cut.
        width: Dt, also Dp.
    """

    def __init__(self, max_length: int, width: int) -> None:
        self.max_length = max_length
        self.width = width
        self.pooled_width = width
        self.segments = (TextSegment((0, max_length), (0, width), (0, width), "hash"),)

    def num_tokens(self, prompt: str) -> tuple[int]:
        return (len(_words(prompt)),)

    def to(self, device: torch.device) -> None:
        """Nothing to move: embeddings are on the CPU."""

    def encode(self, prompts: list[str]) -> TextCondition:
        """Embeddings of about unit scale per channel. An empty prompt is one token, of its own."""
        embeds = torch.zeros(len(prompts), self.max_length, self.width)
        mask = torch.zeros(len(prompts), self.max_length, dtype=torch.bool)
        pooled = torch.zeros(len(prompts), self.width)
        for row, prompt in enumerate(prompts):
            words = _words(prompt)[: self.max_length]
            vectors = torch.stack([_word_vector(word, self.width) for word in words])
            positions = torch.stack([_hashed_vector(f"position {index}", self.width) for index in range(len(words))])
            embeds[row, : len(words)] = vectors + positions / 2
            mask[row, : len(words)] = True
            pooled[row] = vectors.mean(0) * len(words) ** 0.5
        return TextCondition(embeds, mask, pooled)


def _words(prompt: str) -> list[str]:
    return _WORD.findall(prompt.lower()) or [""]


def _word_vector(word: str, width: int) -> Tensor:
    bracketed = f"<{word}>"
    grams = {bracketed} | {bracketed[start : start + 3] for start in range(len(bracketed) - 2)}
    return torch.stack([_hashed_vector(gram, width) for gram in sorted(grams)]).sum(0) / len(grams) ** 0.5


@lru_cache(maxsize=65_536)
def _hashed_vector(text: str, width: int) -> Tensor:
    """A standard normal vector that depends on nothing but the text and the width."""
    return torch.randn(width, generator=torch.Generator().manual_seed(derive_seed(text)))
