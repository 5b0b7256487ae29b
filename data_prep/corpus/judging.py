"""Steps that judge documents by what the user gives: models for quality and topic, lists of banned words."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from data_prep.corpus.config import CleanConfig
from data_prep.corpus.fit import Languages, sample_of
from data_prep.corpus.judge_config import DEFAULT, QualityConfig, TopicConfig
from data_prep.corpus.outcome import NO_LANGUAGE, Outcome
from data_prep.corpus.stages import Stage
from data_prep.corpus.steps import ADDED, LANGUAGE, DropDocuments
from data_prep.text.banned_words import BannedWords, read_banned_words
from data_prep.text.classifiers.classifier import Classifier, Score, classifier, files_of_model
from data_prep.text.clean_rules import PRESETS, Text, judge
from data_prep.text.input_file import InputFile
from data_prep.text.labels import value_under
from data_prep.text.own_json import fields_of, read_own
from data_prep.text.text_files import unreadable
from harness.errors import UsageError
from harness.run.files import replace_file

LOW_QUALITY = "low quality"
BANNED_WORDS = "banned words"
SAMPLED_CHARACTERS = 20_000_000
LEAST_SAMPLED = 50
"""Documents of a language in the sample, from which on a quantile of theirs means something."""
_DIGITS = 6


@dataclass(frozen=True)
class Limits:
    """Lowest score that is kept of each language."""

    given: Mapping[str, float]
    quantiles: Mapping[str, float]
    measured: Path | None = None
    """File with the scores at the quantiles, once they are measured."""

    def names(self, language: str) -> bool:
        """Return whether a limit is asked for a language."""
        return not {language, DEFAULT}.isdisjoint([*self.given, *self.quantiles])

    def of(self, language: str) -> float | None:
        """Return the limit of a language; None if it has none, or too few documents to tell."""
        if language in self.given:
            return self.given[language]
        if language in self.quantiles or (DEFAULT in self.quantiles):
            return self._measured.get(language)
        return self.given.get(DEFAULT)

    @cached_property
    def _measured(self) -> Mapping[str, float]:
        return {} if self.measured is None else read_limits(self.measured)


def quality_file(work: Path) -> Path:
    """Return the file in which the limits of a source are kept while it is cleaned."""
    return work / "quality.json"


def read_limits(file: Path) -> dict[str, float]:
    """Return the limits that `MeasureQuality` wrote.

    Raises:
        DataError: It is unreadable.
    """
    try:
        entries = {language: fields_of(entry, language) for language, entry in fields_of(read_own(file)).items()}
        return {language: float(entry["limit"]) for language, entry in entries.items() if entry["limit"] is not None}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise unreadable(file, error) from error


@dataclass
class Sampling:
    """A source of which a sample is judged before it is cleaned."""

    files: Sequence[InputFile]
    text_key: str
    config: CleanConfig
    languages: Languages | None

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield language and text of documents that the rules keep."""
        for content in sample_of(self.files, self.text_key, SAMPLED_CHARACTERS):
            text = self.languages.text(content) if self.languages else Text(content)
            if judge(text, PRESETS[self.config.preset], self.config.spare_markup).broken is None:
                yield next(iter(text.languages), NO_LANGUAGE), content


class MeasureQuality(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Measures the scores at the quantiles of a source, from a sample of all its files."""

    type = "STATS"
    name = "quality"

    def __init__(self, sampling: Sampling, score: Score, quantiles: Mapping[str, float], file: Path) -> None:
        super().__init__()
        self.sampling = sampling
        self.score = score
        self.quantiles = quantiles
        self.file = file

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """See datatrove's `PipelineStep`."""
        scores = defaultdict[str, list[float]](list)
        for language, text in self.sampling.documents():
            scores[language].append(self.score(text))
        found = {language: self._entry(language, each) for language, each in sorted(scores.items())}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.file, json.dumps(found).encode() + b"\n")

    def _entry(self, language: str, scores: list[float]) -> dict[str, Any]:
        share = self.quantiles.get(language, self.quantiles.get(DEFAULT))
        is_enough = share is not None and len(scores) >= LEAST_SAMPLED
        return {"sampled": len(scores), "limit": float(np.quantile(scores, share or 0.0)) if is_enough else None}


class KeepGood(BaseFilter):  # type: ignore[misc]
    """Keeps documents whose score is not below the limit of their language, and writes the score into the record."""

    name = "quality"

    def __init__(self, config: QualityConfig, score: Score, limits: Limits, outcome: Outcome) -> None:
        super().__init__(DropDocuments(outcome, LOW_QUALITY))
        self.key = config.key
        self.score = score
        self.limits = limits
        self.outcome = outcome

    def filter(self, doc: Document) -> bool:
        """Return True to keep the document."""
        score = self.score(doc.text)
        doc.metadata.setdefault(ADDED, {})[self.key] = round(score, _DIGITS)
        language = doc.metadata.get(LANGUAGE, NO_LANGUAGE)
        limit = self.limits.of(language)
        if limit is None and self.limits.names(language):
            self.outcome.note_unknown(LOW_QUALITY)
        return limit is None or score >= limit


class KeepClean(BaseFilter):  # type: ignore[misc]
    """Keeps documents without banned words, or with few."""

    name = "banned words"

    def __init__(self, lists: Mapping[str, BannedWords], most: int, most_share: float, outcome: Outcome) -> None:
        super().__init__(DropDocuments(outcome, BANNED_WORDS))
        self.lists = lists
        self.most = most
        self.most_share = most_share

    def filter(self, doc: Document) -> bool:
        """Return True to keep the document."""
        words = self.lists.get(doc.metadata.get(LANGUAGE, NO_LANGUAGE), self.lists.get(DEFAULT))
        found = words.count(doc.text) if words else 0
        return found <= self.most or found <= self.most_share * Text(doc.text).num_words


class NoteTopic(PipelineStep):  # type: ignore[misc]
    """Writes the label of each document into its record."""

    type = "TAGGER"
    name = "topic"

    def __init__(self, config: TopicConfig, model: Classifier | None) -> None:
        super().__init__()
        self.config = config
        self.model = model

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """See datatrove's `PipelineStep`."""
        for document in data:
            document.metadata.setdefault(ADDED, {})[self.config.key] = self._label(document)
            yield document

    def _label(self, document: Document) -> str | None:
        if self.model is None:
            return host_of(document.metadata["raw"], self.config.host_of or "")
        shares = self.model.shares(document.text)
        label = max(shares, key=lambda name: shares[name], default=None)
        is_likely = label is not None and shares[label] >= self.config.least_share
        return label.removeprefix("__label__") if label is not None and is_likely else None


def host_of(line: bytes, key: str) -> str | None:
    """Return the host of the address that a line of JSON has under a key, without `www.`; None if it has none."""
    address = value_under(line, key)
    try:
        host = urlsplit(address).hostname if isinstance(address, str) else None
    except ValueError:  # brackets that are no address of IPv6
        return None
    return host.removeprefix("www.") or None if host else None


@dataclass
class Judging:
    """Steps that judge the documents of a source, and the stages that go before."""

    steps: list[PipelineStep] = field(default_factory=list)
    after_all: list[PipelineStep] = field(default_factory=list)
    """Steps for what is kept."""
    stages: list[Stage] = field(default_factory=list)


def judging(sampling: Sampling, outcome: Outcome, work: Path) -> Judging:
    """Return the steps for what a source asks for.

    Raises:
        HarnessError: A model or a list cannot be opened.
    """
    config, found = sampling.config, Judging()
    if config.banned_words:
        lists = {language: read_banned_words(file) for language, file in config.banned_words.items()}
        found.steps.append(KeepClean(lists, config.most_banned_words, config.most_banned_share, outcome))
    if config.quality:
        setting = "clean.quality.model"
        score = Score(classifier(config.quality.model, setting), config.quality.label, setting)
        measured = quality_file(work) if config.quality.quantile else None
        if measured:
            measure = MeasureQuality(sampling, score, config.quality.quantile, measured)
            found.stages.append(Stage("quality", (measure,), 1))
        limits = Limits(config.quality.threshold, config.quality.quantile, measured)
        found.steps.append(KeepGood(config.quality, score, limits, outcome))
    if config.topic:
        model = classifier(config.topic.model, "clean.topic.model") if config.topic.model else None
        found.after_all.append(NoteTopic(config.topic, model))
    return found


def judging_files(config: CleanConfig) -> list[Path]:
    """Return the files of the user that documents are judged by.

    Raises:
        UsageError: One is not there.
    """
    files = list(config.banned_words.values())
    for model in (config.quality and config.quality.model, config.topic and config.topic.model):
        files += files_of_model(model) if model else []
    if missing := [file for file in files if not file.is_file()]:
        raise UsageError(f"{missing[0]}: there is no such file, which clean is to judge documents by. Check the path.")
    return files


def depends_on_whole(settings: Mapping[str, Any]) -> bool:
    """Return whether the result of a file depends on what is in the others, by the settings of its cleaning."""
    quality = settings.get("clean", {}).get("quality")
    return bool(quality and quality.get("quantile"))
