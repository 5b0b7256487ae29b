"""The filters that a source may ask for by name: datatrove's, our rules, and both with markup spared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4ParagraphFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

from data_prep.corpus.fit import Languages
from data_prep.corpus.outcome import NO_LANGUAGE, Outcome
from data_prep.corpus.steps import LANGUAGE, DropDocuments
from data_prep.corpus.words import Words
from data_prep.text.clean_rules import PRESETS, Preset, Text, judge
from data_prep.text.languages.identify import Identify, code_of
from harness.errors import UsageError

NAMED: Mapping[str, Callable[..., BaseFilter]] = {
    "gopher_quality": partial(GopherQualityFilter, language=Words()),
    "gopher_repetition": partial(GopherRepetitionFilter, language=Words()),
    "c4_quality": partial(C4QualityFilter, language=Words()),
    "fineweb_quality": partial(FineWebQualityFilter, language=Words()),
    "c4_paragraph": C4ParagraphFilter,
}


class RuleFilter(BaseFilter):  # type: ignore[misc] # datatrove has no types
    """A preset of our rules: those of Gopher, C4 and StarCoder."""

    name = "rules"

    def __init__(
        self, preset: Preset, spare_markup: bool, languages: Languages | None = None, outcome: Outcome | None = None
    ) -> None:
        super().__init__(DropDocuments(outcome, "rules") if outcome else None)
        self.preset = preset
        self.spare_markup = spare_markup
        self.languages = languages
        self.outcome = outcome

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return True to keep the document, or False and the name of the broken rule."""
        text = self.languages.text(doc.text) if self.languages else Text(doc.text)
        found = judge(text, PRESETS[self.preset], self.spare_markup)
        if self.outcome and self.languages:
            language = next(iter(text.languages), None)
            self.outcome.note_language(language, found.unknown)
            doc.metadata[LANGUAGE] = language or NO_LANGUAGE
        return True if found.broken is None else (False, found.broken)


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


class KeepLanguages(BaseFilter):  # type: ignore[misc]
    """Keeps documents in some languages."""

    name = "languages"

    def __init__(
        self, languages: Sequence[str], least_score: float, identify: Identify, dropped: DropDocuments | None = None
    ) -> None:
        super().__init__(dropped)
        self.languages = frozenset(map(code_of, languages))
        self.least_score = least_score
        self.identify = identify

    def filter(self, doc: Document) -> bool:
        """Return True to keep the document."""
        guesses = self.identify(doc.text)
        return bool(guesses) and guesses[0].language in self.languages and guesses[0].probability >= self.least_score


def named_filter(name: str, arguments: Mapping[str, Any], dropped: DropDocuments | None = None) -> BaseFilter:
    """Return one of datatrove's filters for prose; by default it splits words as the other rules do.

    Raises:
        UsageError: The filter of datatrove has no such argument.
    """
    try:
        return SpareMarkup(NAMED[name](**arguments), dropped)
    except TypeError as error:
        raise UsageError(f"filter {name}: datatrove does not take these arguments ({error}).") from error
