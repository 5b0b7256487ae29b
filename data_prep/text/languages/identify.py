"""Finds the language of a text: by its script, by words that only one language has, or by a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.text.classifiers.fasttext_file import open_fasttext
from harness.errors import UsageError

MOST_GUESSES = 3
LEAST_PROBABILITY = 0.05
_LOOKED_AT = 500
"""Characters that are taken from the begin of a text, and from its middle."""
_LABEL = re.compile(r"(?:__label__)?([a-z]{2,3})(?:[_-].*)?")
_MACRO = {"arb": "ar", "zho": "zh", "cmn": "zh", "ekk": "et", "lvs": "lv", "nob": "no", "swh": "sw", "zsm": "ms"}


class Guess(NamedTuple):
    """A language that a text may be in."""

    language: str
    """ISO 639-1 where there is a code, otherwise ISO 639-3; as the model has it."""
    probability: float


Identify = Callable[[str], tuple[Guess, ...]]
"""Returns the likely languages of a text, the likeliest first."""


def code_of(label: str) -> str:
    """Return the code of a language for a label of a model: `__label__zho_Hans` and `zh-CN` are `zh`."""
    match = _LABEL.fullmatch(label.strip().lower())
    code = match.group(1) if match else label
    return _MACRO.get(code, code)


def excerpt(text: str) -> str:
    """Return what is looked at of a text, on one line: its begin and its middle."""
    if len(text) > 2 * _LOOKED_AT:
        middle = len(text) // 2
        text = text[:_LOOKED_AT] + " " + text[middle : middle + _LOOKED_AT]
    return " ".join(text.split())


@dataclass(frozen=True)
class Assumed:
    """Takes every text to be in one language."""

    language: str

    def __call__(self, text: str) -> tuple[Guess, ...]:
        """Return this language."""
        return (Guess(self.language, 1.0),)


@dataclass
class PackagedModel:
    """The model of py3langid, for 139 languages."""

    def __call__(self, text: str) -> tuple[Guess, ...]:
        """Return the likely languages of a text."""
        ranked = _packaged().rank(excerpt(text))[:MOST_GUESSES]
        return tuple(Guess(str(code), float(share)) for code, share in ranked if share >= LEAST_PROBABILITY)


@cache
def _packaged() -> Any:  # noqa: ANN401 (of py3langid)
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UsageError(
            "the language of a text is found with the Python package py3langid, which is not installed. Install the "
            "project with its `data-clean` extra, or give a fastText model."
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class ModelFile:
    """A fastText model in a file, such as lid.176.bin or GlotLID's."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._model: Any = None

    def __call__(self, text: str) -> tuple[Guess, ...]:
        """Return the likely languages of a text."""
        labels, shares = self._opened().predict(excerpt(text), MOST_GUESSES, LEAST_PROBABILITY)
        return tuple(Guess(code_of(label), float(share)) for label, share in zip(labels, shares, strict=True))

    def _opened(self) -> Any:  # noqa: ANN401 (of fastText)
        if self._model is None:
            self._model = open_fasttext(self.file, "language model")
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model, which cannot be sent to another process."""
        return {"file": self.file, "_model": None}


def identifier(model_file: Path | None) -> Identify:
    """Return the function that finds the language of a text, by the model of a file or the packaged one.

    Raises:
        UsageError: There is no such file, it is no model, or a package is missing.
    """
    if model_file is None:
        _packaged()
        return PackagedModel()
    if not model_file.is_file():
        raise UsageError(
            f"language_model {model_file}: there is no such file. Give a fastText model for languages (lid.176.bin is "
            "the usual one), or leave it out to use the packaged one."
        )
    model = ModelFile(model_file)
    model("a")
    return model
