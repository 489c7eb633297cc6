"""What the tables of a config have in common, and the kinds of their values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PatchSize = tuple[Count, Count, Count]
Precision = Literal["fp32", "bf16"]
"""Of what is stored."""
Autocast = Literal["fp32", "bf16", "fp16"]
"""Of products."""


class Table(BaseModel):
    """A table of the TOML file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
