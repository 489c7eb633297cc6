"""How large the models of an ablation are, and the width at which one is as large as another."""

from typing import NamedTuple

from ablation_grid import Cell, Match

from video_dit.config import Config, with_changes
from video_dit.contracts import EncodedShape
from video_dit.models.trained import parameter_counts
from video_dit.shapes import token_grid
from video_dit.training.activations import meta_model
from video_dit.training.flops import step_flops


class Size(NamedTuple):
    """
    parameters: that are trained.
    flops: of one clip's forward and backward pass, the largest clips' if there are several shapes; see `StepFlops`.
    """

    parameters: int
    flops: int

    @classmethod
    def of(cls, config: Config, encoded: EncodedShape) -> "Size":
        """
        Raises:
            UserError: the model does not fit the clips.
        """
        model = meta_model(config, encoded)
        tokens = token_grid(encoded.grid, config.model.patch_size)
        model.position_embedding.check_fits(tokens)
        flops = step_flops(model, tokens, encoded.text_length, config.diffusion.per_frame_noise).model
        return cls(parameter_counts(model).trained, flops)


def equal_sizes(cells: list[Cell], encoded: EncodedShape) -> list[tuple[Cell, Size]]:
    """The cells with their sizes, those that ask for it at the width that comes nearest to their reference.

    Args:
        cells: references may come behind those that name them, and may not ask for a match of their own.
        encoded: what the encoders make.

    Raises:
        UserError: a model does not fit the clips.
    """
    own = {cell.name: Size.of(cell.config, encoded) for cell in cells}
    sized = []
    for cell in cells:
        config, size = cell.config, own[cell.name]
        if cell.match is not None and cell.reference is not None:
            config, size = matched(config, cell.match, own[cell.reference], encoded)
        sized.append((cell._replace(config=config), size))
    return sized


def matched(config: Config, match: Match, reference: Size, encoded: EncodedShape) -> tuple[Config, Size]:
    """The config with the `model.hidden_size` that comes nearest to the reference in what `match` names.

    Widths are multiples of `ModelConfig.hidden_size_step`; the other keys, such as the number of heads, stay.
    """
    step = config.model.hidden_size_step
    smallest = 6 * config.model.num_heads if config.model.rotary else step  # channels of a head, for three axes
    target = getattr(reference, match)

    def of(multiple: int) -> tuple[Config, Size]:
        changed = with_changes(config, "model", {"hidden_size": multiple * step})
        return changed, Size.of(changed, encoded)

    def amount(found: tuple[Config, Size]) -> int:
        return int(getattr(found[1], match))

    low = -(-smallest // step)
    high = low
    while amount(of(high)) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if amount(of(middle)) < target else (low, middle)
    return min(of(low), of(high), key=lambda found: abs(amount(found) - target))
