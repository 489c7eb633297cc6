"""[lora]: small matrices that are trained beside layers that are not."""

from pydantic import Field

from video_dit.config.table import CountOrZero, Positive, Table


class LoraConfig(Table):
    """Adapters: W x becomes W x + alpha / rank B A x, and A and B alone are trained (arXiv 2106.09685)."""

    rank: CountOrZero = Field(0, description="of B A; 0: no adapters. They start as no change, from initial_weights")
    alpha: Positive | None = Field(None, description="adapters count alpha / rank; none: rank, so that they count 1")
    target_modules: tuple[str, ...] = Field(
        ("backbone.*.to_[qkv].linear", "backbone.*.to_out"),
        description="patterns of the names of linear layers that get one; these are all of the attention, and "
        "'backbone.*' all of the blocks",
    )

    @property
    def scale(self) -> float:
        """alpha / rank, where there are adapters."""
        return 1.0 if self.alpha is None else self.alpha / max(1, self.rank)
