"""The schema of what a source is judged by besides the rules: a quality score, and a label of its topic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from harness.config.section import FilePath, Section
from harness.limits import MOST_ENTRIES, MOST_FLOAT, MOST_TEXT

DEFAULT = "default"
"""In the place of a language: all that are not named."""
Key = Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
Score = Annotated[float, Field(ge=-MOST_FLOAT, le=MOST_FLOAT, allow_inf_nan=False)]
Quantile = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


def _for_all(value: object) -> object:
    return {DEFAULT: value} if isinstance(value, int | float) and not isinstance(value, bool) else value


def require_codes(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse names that are neither codes of languages nor `default`."""
    wrong = [name for name in found if name != DEFAULT and not re.fullmatch("[a-z]{2,3}", name)]
    if wrong:
        raise PydanticCustomError(
            "languages",
            "must name languages by their code (id, ilo), or `default`; {name} is neither",
            {"name": wrong[0]},
        )
    return found


Thresholds = Annotated[
    dict[str, Score], Field(max_length=MOST_ENTRIES), BeforeValidator(_for_all), AfterValidator(require_codes)
]
Quantiles = Annotated[
    dict[str, Quantile], Field(max_length=MOST_ENTRIES), BeforeValidator(_for_all), AfterValidator(require_codes)
]


class QualityConfig(Section):
    """Dropping the documents that a model gives a low score."""

    model: FilePath
    """Model of fastText, or ONNX (`.onnx`, with its tokenizer.json and config.json beside it)."""
    label: Key = "__label__hq"
    """Its label whose probability is the score; a model of one number has none."""
    threshold: Thresholds = Field(default_factory=dict)
    """Lowest score that is kept: one for all (0.5), or by language ({default: 0.5, id: 0.3})."""
    quantile: Quantiles = Field(default_factory=dict)
    """In place of a threshold the share of a language's documents that goes, those with the lowest scores (0.3), in the
    same way; it is measured on a sample of the source."""
    key: Key = "quality"
    """Key of each record that the score is written to."""

    @model_validator(mode="after")
    def _each_language_once(self) -> Self:
        if not self.threshold and not self.quantile:
            raise PydanticCustomError("quality", "must have a threshold or a quantile")
        if twice := sorted(set(self.threshold) & set(self.quantile)):
            raise PydanticCustomError(
                "quality", "has a threshold and a quantile for {name}: leave one out", {"name": twice[0]}
            )
        return self


class TopicConfig(Section):
    """A label of each document, by which a source is split (`harness data split`) or ordered."""

    model: FilePath | None = None
    """Model of fastText or ONNX; the label that it holds for the likeliest, without `__label__`."""
    least_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Probability that a label needs; less likely ones are not written."""
    host_of: Key | None = None
    """Key of each record with an address, whose host (example.org) is the label."""
    key: Key = "topic"
    """Key of each record that the label is written to."""

    @model_validator(mode="after")
    def _from_one_place(self) -> Self:
        if (self.model is None) == (self.host_of is None):
            raise PydanticCustomError("topic", "must have either `model` or `host_of`")
        return self
