"""One sequence on several ranks: Ulysses (Jacobs et al. 2023, arXiv 2309.14509)."""

from video_dit.parallel.sequence import SequenceGroup, ShapesOnly, Shard

__all__ = ["SequenceGroup", "ShapesOnly", "Shard"]
