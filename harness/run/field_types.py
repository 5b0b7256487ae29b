"""Types of the fields in the files of a run: a value out of their bounds does not come from a run, and is not used.

The bounds are far beyond what any run has. Within them later arithmetic neither overflows nor takes for ever.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

MOST_COUNT = 2**53
"""Largest number of steps, samples or tokens: every whole number up to here is also a float."""
MOST_RANKS = 2**20
"""Largest number of processes of a run."""
LAST_MOMENT = 253_402_300_799.0
"""End of the year 9999, in seconds since 1970: the last moment that a calendar can show."""
MOST_NATS = 1e9
"""Largest loss. A model that gives each token of the largest vocabulary the smallest probability of float32 has 104."""


def _at_most(most: float) -> AfterValidator:
    """Return the check of an upper bound that is no rule for users, only a limit of what is believed."""

    def check(value: Any) -> Any:  # noqa: ANN401 (a number of either type)
        if value > most:
            raise ValueError(f"{value} is larger than any run has")
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(strict=True, ge=0), _at_most(MOST_COUNT)]
Rank = Annotated[int, Field(strict=True, ge=0), _at_most(MOST_RANKS - 1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NumberOrNan = Annotated[float | None, Field(strict=True)]
"""A number; where it is not finite the file has null, which reads as None."""
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), _at_most(LAST_MOMENT)]
"""A duration, or a moment since 1970."""
Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]


def reason_in_words(error: Exception) -> str:
    """Return why content was refused, for people: by pydantic, by the reader of JSON, or by the disk."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False)[0]
        place = ".".join(map(str, found["loc"])) if found["type"] != "missing" else ""
        return f"{place}: {found['msg']}" if place else str(found["msg"])
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _rising(ends: tuple[int, int]) -> tuple[int, int]:
    if ends[0] > ends[1]:
        raise ValueError("the end lies before the begin")
    return ends


Range = Annotated[tuple[Count, Count], AfterValidator(_rising)]
"""Two numbers that do not fall: the first and the last, or the first and the one behind the last."""


def is_count(value: object) -> bool:
    """Return whether a value is a `Count`."""
    return type(value) is int and 0 <= value <= MOST_COUNT


def is_number(value: object) -> bool:
    """Return whether a value is a number that a metric can have."""
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= MOST_COUNT)


def is_moment(value: object) -> bool:
    """Return whether a value is a moment in seconds since 1970."""
    return type(value) in (int, float) and 0 <= value <= LAST_MOMENT  # type: ignore[operator]
