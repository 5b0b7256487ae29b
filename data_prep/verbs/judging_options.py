"""Options of `harness data clean` for what a user judges documents by: a quality score, banned words, topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.errors import UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_ENTRIES

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])
Value = TypeVar("Value")
DEFAULT = "default"
_OPTIONS = (
    click.option(
        "--quality-model", type=click.Path(path_type=Path), help="fastText or ONNX; its score stays in the record."
    ),
    click.option("--quality-label", metavar="LABEL", help="Whose probability is the score [default: __label__hq]."),
    click.option(
        "--quality-threshold", multiple=True, metavar="[CODE=]SCORE", help="Lowest score that is kept. Repeatable."
    ),
    click.option(
        "--quality-quantile",
        multiple=True,
        metavar="[CODE=]SHARE",
        help="Share of each language that goes, in place of a threshold. Repeatable.",
    ),
    click.option(
        "--banned-words",
        multiple=True,
        metavar="[CODE=]FILE",
        help="A word a line, for one language or those without a list. Repeatable.",
    ),
    click.option("--most-banned-words", type=click.IntRange(0, MOST_ENTRIES), default=0, show_default=True),
    click.option("--most-banned-share", type=FiniteRange(0, 1), default=0, show_default=True, help="Of the words."),
    click.option(
        "--topic-model", type=click.Path(path_type=Path), help="fastText or ONNX; its label stays in the record."
    ),
    click.option("--topic-host-of", metavar="KEY", help="Key with an address, whose host is the label."),
)


def JUDGING(function: Wrapped) -> Wrapped:  # noqa: N802 - a row of options, as those beside it
    """Add the options to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def judging_settings(
    *,
    quality_model: Path | None,
    quality_label: str | None,
    quality_threshold: Sequence[str],
    quality_quantile: Sequence[str],
    topic_model: Path | None,
    topic_host_of: str | None,
    **banned: Any,  # noqa: ANN401 - settings of `CleanConfig` under their own names
) -> dict[str, Any]:
    """Return the settings of `CleanConfig` that the options mean.

    Raises:
        UsageError: Options exclude each other, or one is not of the form that it has.
    """
    if quality_model is None and (quality_label or quality_threshold or quality_quantile):
        raise UsageError(
            "--quality-label, --quality-threshold and --quality-quantile are for --quality-model: give it."
        )
    settings = banned | {"banned_words": _by_language("--banned-words", banned["banned_words"], Path)}
    if quality_model is not None:
        quality = {
            "model": quality_model,
            "threshold": _by_language("--quality-threshold", quality_threshold, float),
            "quantile": _by_language("--quality-quantile", quality_quantile, float),
        }
        settings["quality"] = quality | ({"label": quality_label} if quality_label else {})
    if topic_model is not None or topic_host_of is not None:
        settings["topic"] = {"model": topic_model, "host_of": topic_host_of}
    return settings


def _by_language(option: str, given: Sequence[str], kind: Callable[[str], Value]) -> Mapping[str, Value]:
    """Return `id=0.3` and `0.5` as values by language."""
    found: dict[str, Value] = {}
    for text in given:
        code, equals, value = text.partition("=")
        language, value = (code, value) if equals else (DEFAULT, text)
        if language in found:
            raise UsageError(f"{option} {text!r}: {language} is named twice.")
        try:
            found[language] = kind(value)
        except ValueError as error:
            raise UsageError(f"{option} {text!r}: {value!r} is no number. Example: {option} id=0.3.") from error
    return found
