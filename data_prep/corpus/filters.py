"""The filters that a source may ask for by name: datatrove's, our rules, and both with markup spared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4ParagraphFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.lid import FastTextLID

from data_prep.corpus.steps import DropDocuments
from data_prep.corpus.words import Words
from data_prep.text.clean_rules import PRESETS, Preset, Text, first_broken
from harness.errors import UsageError

NAMED: Mapping[str, Callable[..., BaseFilter]] = {
    "gopher_quality": partial(GopherQualityFilter, language=Words()),
    "gopher_repetition": partial(GopherRepetitionFilter, language=Words()),
    "c4_quality": partial(C4QualityFilter, language=Words()),
    "fineweb_quality": partial(FineWebQualityFilter, language=Words()),
    "c4_paragraph": C4ParagraphFilter,
}


class RuleFilter(BaseFilter):  # type: ignore[misc] # datatrove has no types
    """A preset of our rules: those of Gopher, C4 and StarCoder, for English, Chinese and code."""

    name = "rules"

    def __init__(self, preset: Preset, spare_markup: bool, dropped: DropDocuments | None = None) -> None:
        super().__init__(dropped)
        self.preset = preset
        self.spare_markup = spare_markup

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return True to keep the document, or False and the name of the broken rule."""
        broken = first_broken(doc.text, PRESETS[self.preset], self.spare_markup)
        return True if broken is None else (False, broken)


class SpareMarkup(BaseFilter):  # type: ignore[misc]
    """A filter for prose that code, Markdown and LaTeX pass unread."""

    name = "prose only"

    def __init__(self, inner: BaseFilter, dropped: DropDocuments | None = None) -> None:
        super().__init__(dropped)
        self.inner = inner

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return the filter's decision for prose, and True for markup."""
        verdict: bool | tuple[bool, str] = True if Text(doc.text).is_markup else self.inner.filter(doc)
        return verdict


class ModelFile(FastTextLID):  # type: ignore[misc]
    """A language identifier of fastText in a file of this machine."""

    def __init__(self, file: Path, languages: list[str]) -> None:
        super().__init__(languages)
        self.file = file
        self._model: Any = None

    @property
    def model(self) -> Any:  # noqa: ANN401 - fastText has no types
        """The model, read when it is first used: it cannot be sent to another process."""
        if self._model is None:
            from fasttext.FastText import _FastText

            self._model = _FastText(str(self.file))
        return self._model


def language_filter(
    languages: tuple[str, ...], least_score: float, model_file: Path | None, dropped: DropDocuments | None = None
) -> BaseFilter:
    """Keep documents in these languages; without a file the model is the one that datatrove fetches.

    Raises:
        UsageError: The packages or the file are missing.
    """
    if model_file is not None and not model_file.is_file():
        raise UsageError(
            f"language_model {model_file}: there is no such file. Give a fastText model for languages (lid.176.bin is "
            "the usual one), or leave the key out to let datatrove fetch it."
        )
    try:
        step = LanguageFilter(list(languages), least_score, dropped)
    except ImportError as error:
        raise UsageError(
            f"a filter for languages needs packages that are not installed ({error}). Install the project with its "
            "`data-clean` extra."
        ) from error
    if model_file is not None:
        step.model = ModelFile(model_file, list(languages))
    return step


def named_filter(name: str, arguments: Mapping[str, Any], dropped: DropDocuments | None = None) -> BaseFilter:
    """Return one of datatrove's filters for prose; by default it splits words as the other rules do.

    Raises:
        UsageError: The filter of datatrove has no such argument.
    """
    try:
        return SpareMarkup(NAMED[name](**arguments), dropped)
    except TypeError as error:
        raise UsageError(f"filter {name}: datatrove does not take these arguments ({error}).") from error
