"""Measures, before a source is cleaned, for which languages the lists of words fit it.

An identifier gives every text a language that it knows: it takes Ilocano for Tagalog and Balinese for Javanese. A rule
that then looks for words of that language would drop all of it. So a sample of the source is looked at first, and where
too few of the texts taken for a language have its words, its rules are not applied to this source.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from data_prep.text.clean_rules import Text, has_stop_words
from data_prep.text.file_kinds import STATE_FOLDER
from data_prep.text.input_file import InputFile
from data_prep.text.languages.identify import Identify
from data_prep.text.own_json import counts_of, fields_of, read_own
from data_prep.text.sample_documents import MAX_FILES, sample_documents
from data_prep.text.text_files import unreadable
from harness.errors import DataError
from harness.run.files import replace_file

SAMPLED_CHARACTERS = 2_000_000
LEAST_WORDS = 50
"""A shorter text may lack the most frequent words by chance."""
LEAST_SHARE = 0.8
"""Share of the texts taken for a language that have its words, from which on they are believed to be in it."""


def fit_file(work: Path) -> Path:
    """Return the file in which the fit of a source is kept while it is cleaned."""
    return work / "languages.json"


def kept_fit(output: Path) -> Path:
    """Return the file in which the fit of a source is kept when it is cleaned."""
    return output / STATE_FOLDER / "languages.json"


def measure_fit(texts: Iterable[str], identify: Identify) -> dict[str, tuple[int, int]]:
    """Return, of each language, how many texts are taken for it and how many of them have its words."""
    taken, fitting = Counter[str](), Counter[str]()
    for text in (Text(content, identify) for content in texts):
        if text.num_words >= LEAST_WORDS and text.languages and text.language_rules:
            taken[text.languages[0]] += 1
            fitting[text.languages[0]] += has_stop_words(text)
    return {language: (count, fitting[language]) for language, count in taken.items()}


def fitting_languages(fit: Mapping[str, tuple[int, int]]) -> frozenset[str]:
    """Return the languages whose words enough of the texts have."""
    return frozenset(language for language, (count, fitting) in fit.items() if fitting >= LEAST_SHARE * count)


@dataclass
class Languages:
    """Finds the languages of texts, and those whose rules are applied; all if nothing was measured."""

    identify: Identify
    fit: Path | None = None

    def text(self, content: str) -> Text:
        """Return a text whose language the rules may ask for."""
        return Text(content, self.identify, self._trusted)

    @cached_property
    def _trusted(self) -> frozenset[str] | None:
        return None if self.fit is None else fitting_languages(read_fit(self.fit))


def read_fit(file: Path) -> dict[str, tuple[int, int]]:
    """Return what `MeasureFit` wrote.

    Raises:
        DataError: It is unreadable.
    """
    try:
        found = fields_of(read_own(file))
        counts = {language: counts_of(fields_of(entry), language) for language, entry in found.items()}
        return {language: (entry["taken"], entry["fitting"]) for language, entry in counts.items()}
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(file, error) from error


def sample_of(files: Sequence[InputFile], text_key: str, characters: int) -> Iterator[str]:
    """Yield documents of files from all over the input. One that cannot be read is told of by who reads it whole."""
    count = min(len(files), MAX_FILES)
    for number in range(count):
        with suppress(DataError):
            file = files[number * len(files) // count]
            yield from sample_documents([file], text_key, characters // count)


class MeasureFit(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Measures the fit of a source, from a sample of all its files."""

    type = "STATS"
    name = "languages"

    def __init__(self, files: Sequence[InputFile], text_key: str, identify: Identify, file: Path) -> None:
        super().__init__()
        self.files = files
        self.text_key = text_key
        self.identify = identify
        self.file = file

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """See datatrove's `PipelineStep`."""
        fit = measure_fit(sample_of(self.files, self.text_key, SAMPLED_CHARACTERS), self.identify)
        content = {language: {"taken": count, "fitting": fitting} for language, (count, fitting) in sorted(fit.items())}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.file, json.dumps(content).encode() + b"\n")
