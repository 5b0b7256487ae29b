"""The base class of all sections of a configuration, and the kinds of values that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
SkipWindow = Annotated[tuple[NonNegativeInt, NonNegativeInt], Field(strict=False)]
FilePath = Annotated[Path, Field(strict=False)]
Word = Annotated[str, Field(pattern=r"^[!-,.-~][!-~]*$")]
"""Printable text without spaces that cannot be taken for a flag."""


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
