"""The base class of all sections of a configuration, and the kinds of values that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from harness.limits import (
    LEAST_FLOAT,
    LEAST_SECONDS,
    MOST_EXPERTS,
    MOST_FLOAT,
    MOST_HELD_OUT_SAMPLES,
    MOST_LAYERS,
    MOST_RANKS,
    MOST_SAMPLE_TOKENS,
    MOST_SAMPLES,
    MOST_SECONDS,
    MOST_STEPS,
    MOST_TEXT,
    MOST_TOKENS,
    MOST_VOCABULARY,
    MOST_WIDTH,
)


def _window(value: object) -> object:
    """Tell those who give Megatron's pair, which counts the tokens before and behind, what to give here."""
    if isinstance(value, list | tuple) and len(value) == len(("before", "behind")) and type(value[0]) is int:
        raise PydanticCustomError(
            "window_pair",
            "must be the number of tokens that a token sees, itself among them: for Megatron's {pair} that is {number}",
            {"pair": str(list(value)), "number": value[0] + 1},
        )
    return value


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
WORD = r"^[!-,.-~][!-~]*$"

Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
StepsOrNone = Annotated[int, Field(ge=0, le=MOST_STEPS)]
"""A number of steps that may be 0."""
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
HeldOutSamples = Annotated[int, Field(ge=1, le=MOST_HELD_OUT_SAMPLES)]
SampleTokens = Annotated[int, Field(ge=1, le=MOST_SAMPLE_TOKENS)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Width = Annotated[int, Field(ge=1, le=MOST_WIDTH)]
Ids = Annotated[int, Field(ge=1, le=MOST_VOCABULARY)]
RankCount = Annotated[int, Field(ge=1, le=MOST_RANKS)]
PositiveFloat = Annotated[float, Field(ge=LEAST_FLOAT, le=MOST_FLOAT, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=MOST_FLOAT, allow_inf_nan=False)]
Interval = Annotated[float, Field(ge=LEAST_SECONDS, le=MOST_SECONDS, allow_inf_nan=False)]
"""Seconds between two looks at something."""
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Experts = Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
RotaryShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Window = Annotated[SampleTokens, BeforeValidator(_window)]
"""Tokens that a token sees, itself among them."""
Name = Annotated[str, Field(pattern=NAME, max_length=64)]
SkipWindow = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MOST_TOKENS)], Annotated[int, Field(ge=0, le=MOST_TOKENS)]],
    Field(strict=False),
]


def _require_named(path: object) -> object:
    if path == "":
        raise PydanticCustomError("empty_path", "must name a file or a folder; the current folder is '.'")
    return path


FilePath = Annotated[Path, Field(strict=False), BeforeValidator(_require_named)]
Word = Annotated[str, Field(pattern=WORD, max_length=MOST_TEXT)]
"""Printable text without spaces that cannot be taken for a flag."""


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
