"""The stages that clean a source, and those that take copies out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupFilter,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig
from datatrove.utils.hashing import HashConfig

from data_prep.corpus.config import CleanConfig, DedupMethod
from data_prep.corpus.filters import KeepLanguages, RuleFilter, named_filter
from data_prep.corpus.fit import Languages, MeasureFit, fit_file
from data_prep.corpus.judging import Sampling, judging
from data_prep.corpus.near import Bands, FastSignature, FirstOfGroup
from data_prep.corpus.outcome import Outcome
from data_prep.corpus.private_data import PrivateData
from data_prep.corpus.stages import Stage
from data_prep.corpus.steps import DropDocuments, KeepDocuments, ReadFiles, files_of_task
from data_prep.corpus.words import Words
from data_prep.text.input_file import InputFile
from data_prep.text.languages.identify import Assumed, Identify, identifier

EXACT_COPY = "exact duplicate"
NEAR_COPY = "near duplicate"
REPEATED_SENTENCES = "repeated sentences"
LEAST_WORDS = 20
"""A document that has fewer left without its repeated sentences goes."""
MOST_SENTENCES = 65_535
"""datatrove numbers the sentences of a document in 16 bits."""
LARGEST_PRIORITY = 65_535
SIGNATURES_AT_ONCE = 1024
_HASHES = HashConfig(hash_fc="sha1")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Files to go through, where to, and into how many tasks they are cut."""

    files: Sequence[InputFile]
    names: Sequence[str]
    folder: Path
    text_key: str
    tasks: int
    sizes: Sequence[int]
    """About how many bytes each file has: known before the files of a later step are there."""

    @property
    def bytes_per_task(self) -> tuple[int, ...]:
        """Size of the files of each task."""
        count = len(self.files)
        return tuple(
            sum(self.sizes[number] for number in files_of_task(count, task, self.tasks)) for task in range(self.tasks)
        )

    def outcome(self, lost: str = "dropped") -> Outcome:
        """Keep account of the files."""
        return Outcome(self.files, self.names, self.folder, self.text_key, lost)

    def stage(self, name: str, *steps: PipelineStep, outcome: Outcome | None = None) -> Stage:
        """Return a stage that reads the files first, and writes what is kept if there is an outcome."""
        end = (KeepDocuments(outcome),) if outcome else ()
        reader = ReadFiles(self.files, self.text_key, outcome)
        return Stage(name, (reader, *steps, *end), self.tasks, self.bytes_per_task)


def clean_stages(reading: Reading, config: CleanConfig, language_model: Path | None, work: Path) -> list[Stage]:
    """Return the stage that cleans (rules, languages, datatrove's filters, private data) and what goes before it."""
    outcome, first = reading.outcome(), []
    identify = _identify(config, language_model)
    languages = Languages(identify) if identify and config.asks_language else None
    if languages and config.preset == "prose" and not config.assume_language:
        languages.fit = fit_file(work)
        measure = MeasureFit(reading.files, reading.text_key, languages.identify, languages.fit)
        first = [Stage("languages", (measure,), 1)]
    steps: list[PipelineStep] = [RuleFilter(config.preset, config.spare_markup, languages, outcome)]
    if config.languages and identify:
        dropped = DropDocuments(outcome, "other language")
        steps.append(KeepLanguages(config.languages, config.least_language_score, identify, dropped))
    judges = judging(Sampling(reading.files, reading.text_key, config, languages), outcome, work)
    steps += judges.steps
    for wanted in config.filters:
        steps.append(named_filter(wanted.name, wanted.arguments, DropDocuments(outcome, wanted.name)))
    if config.replaces_private_data:
        steps.append(PrivateData())
    return [*first, *judges.stages, reading.stage("clean", *steps, *judges.after_all, outcome=outcome)]


def _identify(config: CleanConfig, language_model: Path | None) -> Identify | None:
    """Return the function that finds the language of a text; None if nobody asks for it."""
    if config.assume_language:
        return Assumed(config.assume_language)
    return identifier(language_model) if config.asks_language else None


def dedup_stages(reading: Reading, method: DedupMethod, bands: Bands, work: Path) -> list[Stage]:
    """Return the stages of one method; their results are kept in the folder `work`."""
    if method == "exact":
        return _exact_stages(reading, work)
    if method == "sentence":
        return _sentence_stages(reading, work)
    return _near_stages(reading, bands, work)


def _exact_stages(reading: Reading, work: Path) -> list[Stage]:
    config = ExactDedupConfig(_content, _priority, _HASHES)
    signatures, copies = _folders(work, "signatures", "copies")
    find = ExactFindDedups(signatures, copies, config, lines_to_buffer=SIGNATURES_AT_ONCE)
    outcome = reading.outcome()
    keep = ExactDedupFilter(copies, config, DropDocuments(outcome, EXACT_COPY))
    return [
        reading.stage("exact-signatures", ExactDedupSignature(signatures, config)),
        Stage("exact-find", (find,), 1),
        reading.stage("exact-keep", keep, outcome=outcome),
    ]


def _near_stages(reading: Reading, bands: Bands, work: Path) -> list[Stage]:
    signatures, pairs, copies = _folders(work, "signatures", "pairs", "copies")
    outcome = reading.outcome()
    buckets = MinhashDedupBuckets(signatures, pairs, config=bands.config, lines_to_buffer=SIGNATURES_AT_ONCE)
    keep = MinhashDedupFilter(copies, DropDocuments(outcome, NEAR_COPY))
    return [
        reading.stage("minhash-signatures", FastSignature(Path(signatures), bands)),
        Stage("minhash-buckets", (buckets,), bands.count),
        Stage("minhash-groups", (FirstOfGroup(pairs, copies, bands.config),), 1),
        reading.stage("minhash-keep", keep, outcome=outcome),
    ]


def _sentence_stages(reading: Reading, work: Path) -> list[Stage]:
    config = SentDedupConfig(min_doc_words=LEAST_WORDS, min_num_sentences=0, hash_config=_HASHES)
    signatures, copies = _folders(work, "signatures", "copies")
    find = SentenceFindDedups(signatures, copies, config=config, lines_to_buffer=SIGNATURES_AT_ONCE)
    keep = SentenceDedupFilter(copies, config, language=Words())
    return [
        reading.stage("sentence-signatures", SentenceSignature(signatures, config=config, language=Words())),
        Stage("sentence-find", (find,), 1),
        reading.stage("sentence-keep", keep, outcome=reading.outcome(REPEATED_SENTENCES)),
    ]


class SentenceSignature(SentenceDedupSignature):  # type: ignore[misc] # datatrove has no types
    """datatrove's first stage, for documents of any length."""

    def get_hashes(self, doc: Document, doc_idx: int) -> list[tuple[int, int, int]]:
        """Return the hashes of the sentences that can be numbered."""
        hashes: list[tuple[int, int, int]] = super().get_hashes(doc, doc_idx)
        return hashes[:MOST_SENTENCES]


def _content(document: Document) -> str:
    return str(document.text)


def _priority(document: Document) -> int:
    """Return a priority that is larger for earlier documents: of equal ones the first is kept."""
    return LARGEST_PRIORITY - int(document.metadata["task"])


def _folders(work: Path, *names: str) -> list[str]:
    for name in names:
        (work / name).mkdir(parents=True, exist_ok=True)
    return [str((work / name).resolve()) for name in names]
