"""The schema of a corpus file: the sources, the steps for each, and the executor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from data_prep.corpus.extract_config import ExtractConfig
from data_prep.corpus.judge_config import DEFAULT, QualityConfig, TopicConfig, require_codes
from data_prep.corpus.tokenize_config import TokenizeConfig, TokenizeOptions
from harness.config.load import read_text
from harness.config.operation import SLURM_TIME
from harness.config.problems import Location, Problem, closest, raise_problems, shortened
from harness.config.section import FilePath, Name, PositiveFloat, Section, Word
from harness.config.strict_yaml import parse_file_text
from harness.errors import ConfigError
from harness.launch.slurm import flag_problem
from harness.limits import (
    LEAST_TEMPERATURE,
    MOST_ENTRIES,
    MOST_EPOCHS,
    MOST_GIB,
    MOST_ON_A_NODE,
    MOST_SEED,
    MOST_TASKS,
    MOST_TEMPERATURE,
    MOST_TEXT,
    MOST_THREADS,
)

ExecutorKind = Literal["local", "slurm", "ray"]
Kind = Literal["web", "knowledge", "code"]
DedupMethod = Literal["exact", "minhash", "sentence"]
Order = Literal["score", "label", "similar", "shuffle"]
Texts = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Similarity = Annotated[float, Field(ge=0.3, le=0.99)]


Cores = Annotated[int, Field(ge=1, le=MOST_ON_A_NODE)]
Gigabytes = Annotated[int, Field(ge=1, le=MOST_GIB)]
SbatchName = Annotated[str, Field(pattern=r"^[a-z][a-z-]*$", max_length=MOST_TEXT)]
SbatchValue = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=MOST_TEXT)]
"""It stands on a line of the job's script, which it must not end."""
Tasks = Annotated[int, Field(ge=1, le=MOST_TASKS)]


class FilterConfig(Section):
    """One of datatrove's filters for prose."""

    name: Literal["gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality", "c4_paragraph"]
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of datatrove's class."""


def _language_code(text: str) -> str:
    """Refuse what is no code of ISO 639."""
    if not re.fullmatch(r"[a-z]{2,3}", text):
        raise PydanticCustomError("language", "must be a code of ISO 639, two or three small letters (id, ilo)")
    return text


class CleanConfig(Section):
    """Rules that drop documents of a source that are not worth training on."""

    preset: Literal["prose", "code", "light"] = "prose"
    """Our rules: `prose` for the web, in any language; `code` for source files; `light` (only what is broken) for
    books."""
    spare_markup: bool = True
    """Spare code, Markdown and LaTeX the rules that only make sense for prose."""
    filters: Annotated[tuple[FilterConfig, ...], Field(strict=False)] = ()
    """Filters of datatrove, applied after the rules."""
    assume_language: Annotated[str, AfterValidator(_language_code)] | None = None
    """Language of all documents (ilo); if left out it is found for each."""
    languages: Texts | None = None
    """Languages to keep (en, zh, id); any if left out."""
    least_language_score: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Documents whose language is less certain are dropped."""
    replace_private_data: bool | None = None
    """Replace mail and network addresses, telephone and identity numbers by placeholders; if left out, only
    where the preset is `prose`: in code what looks like an address may be a version."""
    banned_words: Annotated[dict[str, FilePath], Field(max_length=MOST_ENTRIES), AfterValidator(require_codes)] = Field(
        default_factory=dict
    )
    """Lists of words, an entry a line, by language ({id: kotor.txt}); `default` is for those without one."""
    most_banned_words: Annotated[int, Field(ge=0, le=MOST_ENTRIES)] = 0
    """A document may have so many of them."""
    most_banned_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Or they may be this share of its words."""
    quality: QualityConfig | None = None
    """Drop documents that a model gives a low score."""
    topic: TopicConfig | None = None
    """Keep a label of each document in its record."""
    most_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of the documents of a source, or of one language in it, that one rule may drop; beyond it the
    command stops with the numbers and examples, and `--accept-loss` goes on."""

    @property
    def replaces_private_data(self) -> bool:
        """True if private data is replaced."""
        return self.preset == "prose" if self.replace_private_data is None else self.replace_private_data

    @property
    def asks_language(self) -> bool:
        """True if the language of a document makes a difference."""
        by_language = {*self.banned_words, *(self.quality.threshold if self.quality else ())} - {DEFAULT}
        has_quantile = self.quality is not None and bool(self.quality.quantile)
        return bool(self.preset == "prose" or self.languages or by_language or has_quantile)


def _each_once(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a method that is named twice: its second pass would find nothing, and write over the first one's files."""
    if len(set(methods)) < len(methods):
        raise PydanticCustomError("repeated", "must name each method once")
    return methods


Methods = Annotated[tuple[DedupMethod, ...], Field(strict=False, min_length=1), AfterValidator(_each_once)]


class DedupConfig(Section):
    """Rules that drop documents of a source that are copies."""

    methods: Methods = ("minhash",)
    """In this order: `exact` (equal texts), `minhash` (near copies), `sentence` (runs of three sentences)."""
    threshold: Similarity = 0.8
    """`minhash`: similarity at which half of the pairs are found."""
    keep: Annotated[str, Field(pattern=r"^[0-9.]+[KMBT%]?$")] | None = None
    """`minhash`: a share (60%) or a number (500B) of characters; the highest threshold that leaves no more is taken in
    the place of `threshold`."""


class OrderConfig(Section):
    """The order in which the documents of a source are read."""

    by: Order = "shuffle"
    """`score` (ascending), `label` (documents with equal labels next to each other), `similar` (those with similar
    content), or `shuffle`."""
    score_key: str = "score"
    """`score`: key of each record that holds the number."""
    label_key: str = "topic"
    """`label`: key of each record that holds the label."""
    descending: bool = False
    """`score`: the largest first."""
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    """`shuffle` and `similar`: equal seeds give equal orders."""


class SourceConfig(Section):
    """One source of text, which becomes a channel."""

    input: Texts
    """Files, folders, patterns or addresses; of documents that are copies the first is kept, so the best come first."""
    kind: Kind = "web"
    """Kind of text, which sets its treatment. `web` is cleaned and de-duplicated, `knowledge` is hardly cleaned and
    de-duplicated hard, `code` is cleaned hard and de-duplicated lightly."""
    text_key: str = "text"
    """Key (or column) that holds the document."""
    extract: ExtractConfig | None = None
    """Take the text out of web pages and books first: the input is HTML, WARC and PDF."""
    clean: CleanConfig | None = None
    """Cleaning in place of the kind's."""
    dedup: DedupConfig | None = None
    """De-duplication in place of the kind's."""
    order: OrderConfig = Field(default_factory=OrderConfig)
    tokenize: TokenizeOptions | None = None
    """Options of this source in place of those in the file's section `tokenize`."""

    @property
    def is_ordered(self) -> bool:
        """True if the file asks for an order."""
        return "order" in self.model_fields_set

    @property
    def cleaning(self) -> CleanConfig:
        """Rules by which it is cleaned."""
        return self.clean or _CLEAN[self.kind]

    @property
    def deduplication(self) -> DedupConfig:
        """Rules by which it is de-duplicated."""
        return self.dedup or _DEDUP[self.kind]


_CLEAN: Mapping[Kind, CleanConfig] = {
    "web": CleanConfig(preset="prose"),
    "knowledge": CleanConfig(preset="light"),
    "code": CleanConfig(preset="code"),
}
_DEDUP: Mapping[Kind, DedupConfig] = {
    "web": DedupConfig(methods=("minhash",), threshold=0.8),
    "knowledge": DedupConfig(methods=("minhash", "sentence"), threshold=0.7),
    "code": DedupConfig(methods=("exact",)),
}


_SET_BY_HARNESS = {
    "--array": "set executor.tasks; a job has one task for every part",
    "--chdir": "run the command in the directory that paths in the corpus file are relative to",
    "--cpus-per-task": "set executor.slurm.cpus_per_task",
    "--dependency": "the jobs of a source wait for each other",
    "--error": "the logs are beside the output",
    "--export": "the job needs what harness passes on; set variables in executor.slurm.environment",
    "--export-file": "the job needs what harness passes on; set variables in executor.slurm.environment",
    "--help": "it queues nothing",
    "--job-name": "it is the name of the step",
    "--mem-per-cpu": "set executor.slurm.mem_per_cpu_gb",
    "--nodes": "a task runs on one node",
    "--output": "the logs are beside the output",
    "--parsable": "the number of the job is read from the usual answer",
    "--partition": "set executor.slurm.partition",
    "--quiet": "the number of the job is read from the usual answer",
    "--test-only": "it queues nothing",
    "--time": "set executor.slurm.time",
    "--usage": "it queues nothing",
    "--version": "it queues nothing",
    "--wait": "give --wait to the command of harness",
    "--workdir": "run the command in the directory that paths in the corpus file are relative to",
    "--wrap": "the jobs have a script of their own",
}
"""Options of sbatch that would break the jobs, with what to do."""


def _without_refused_flags(options: dict[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if problem := flag_problem(f"--{name}={value}" if value else f"--{name}", _SET_BY_HARNESS):
            raise PydanticCustomError("sbatch_flag", "{text}", {"text": f"--{name} {problem}"})
    return options


class LocalConfig(Section):
    """A pool of processes on this machine."""

    workers: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """Tasks that run at once."""


class SlurmConfig(Section):
    """Array jobs."""

    partition: Word
    time: Annotated[str, Field(pattern=SLURM_TIME)]
    """Limit of one task, as Slurm writes it."""
    cpus_per_task: Cores = 1
    tokenize_cpus: Cores | None = None
    """Cores of the one task that tokenizes a source, which uses all that it has; `cpus_per_task` if left out."""
    mem_per_cpu_gb: Gigabytes = 2
    workers: Tasks | None = None
    """Tasks that run at once; as many as the partition has room for if left out."""
    qos: Word | None = None
    environment: str | None = None
    """Shell line before each task, for example one that loads a module."""
    sbatch: Annotated[
        dict[SbatchName, SbatchValue], Field(max_length=MOST_ENTRIES), AfterValidator(_without_refused_flags)
    ] = Field(default_factory=dict)
    """More options of sbatch, without the dashes. One without a value has an empty text."""


class RayConfig(Section):
    """A Ray cluster."""

    address: str | None = None
    """Of a running cluster (`auto` finds it); one is started on this machine if left out."""
    cpus_per_task: Cores = 1
    mem_per_cpu_gb: PositiveFloat = 2.0
    workers: Tasks | None = None
    """Tasks that run at once; all if left out."""


class ExecutorConfig(Section):
    """Executor of the tasks. `kind` chooses one; sections for the others may be present."""

    kind: ExecutorKind = "local"
    tasks: Tasks | None = None
    """Number of tasks that a source is cut into; one for every file if left out, and never more."""
    local: LocalConfig = Field(default_factory=LocalConfig)
    slurm: SlurmConfig | None = None
    ray: RayConfig = Field(default_factory=RayConfig)


class MixConfig(Section):
    """The blend to plan when the channels are tokenized."""

    channels: FilePath
    """Folder that holds a channel folder for every source."""
    shares: dict[Name, PositiveFloat] = Field(default_factory=dict)
    """Weight of each source."""
    sampling: Literal["temperature", "unimax"] | None = None
    """Weights by the tokens of the channels, in place of `shares`."""
    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)] | None = None
    """`temperature`: weights are n^(1/T) for n tokens."""
    tokens: str
    """Length of the run: 250M, 100B, 1.5T."""
    max_epochs: Annotated[float, Field(gt=0, le=MOST_EPOCHS)] = 4.0
    """Maximum number of passes over a channel."""

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        if bool(self.shares) == (self.sampling is not None):
            raise PydanticCustomError("weights", "must have either `shares` or `sampling`")
        if (self.temperature is not None) != (self.sampling == "temperature"):
            raise PydanticCustomError("weights", "must have `temperature` exactly if `sampling` is temperature")
        return self


class CorpusConfig(Section):
    """A whole corpus file."""

    output: FilePath
    """Output folder: `extracted/<source>`, `cleaned/<source>`, `deduped/<source>`, `ordered/<source>`,
    `tokenized/<source>` (reports)."""
    sources: Annotated[dict[Name, SourceConfig], Field(min_length=1)]
    language_model: FilePath | None = None
    """fastText model for languages (lid.176.bin, or GlotLID's); the packaged model of py3langid if left out."""
    executor: ExecutorConfig = Field(default_factory=ExecutorConfig)
    tokenize: TokenizeConfig | None = None
    """Making of the channels."""
    mix: MixConfig | None = None


def load_corpus(path: Path) -> CorpusConfig:
    """Read a corpus file. Its paths are relative to where the command is run, as on the command line.

    Raises:
        ConfigError: With every problem and its line.
    """
    document = parse_file_text(read_text(path), str(path))
    if not isinstance(document.value, dict):
        raise ConfigError([f"{path}: has no sections; a corpus file has 'output:' and 'sources:'"])
    try:
        config = CorpusConfig.model_validate(document.value)
    except ValidationError as error:
        problems = [*document.problems, *map(_problem, error.errors(include_url=False))]
        raise_problems(problems, document.origins)
        raise AssertionError("a corpus file was refused without a problem") from error
    raise_problems(list(document.problems), document.origins)
    return config


def _problem(error: ErrorDetails) -> Problem:
    location: Location = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"] == "missing":
        return Problem(location, "is missing")
    if error["type"] == "extra_forbidden":
        allowed = _keys_at(location[:-1])
        match = closest(str(location[-1]), allowed)
        return Problem(
            location, f"unknown key; {f'did you mean {match!r}?' if match else 'allowed: ' + ', '.join(allowed)}"
        )
    return Problem(location, f"{error['msg'][0].lower()}{error['msg'][1:]}, given {shortened(repr(error['input']))}")


def _keys_at(location: Location) -> tuple[str, ...]:
    """Return the keys of the section at a place of the file."""
    kinds: dict[str, type[Section]] = {
        "clean": CleanConfig,
        "extract": ExtractConfig,
        "quality": QualityConfig,
        "topic": TopicConfig,
        "dedup": DedupConfig,
        "order": OrderConfig,
        "filters": FilterConfig,
        "executor": ExecutorConfig,
        "local": LocalConfig,
        "slurm": SlurmConfig,
        "ray": RayConfig,
        "mix": MixConfig,
        "tokenize": TokenizeOptions if location[:1] == ("sources",) else TokenizeConfig,
    }
    names = [str(part) for part in location if not isinstance(part, int)]
    if not names:
        return tuple(CorpusConfig.model_fields)
    if names[0] == "sources" and len(names) == 2:
        return tuple(SourceConfig.model_fields)
    section = kinds.get(names[-1])
    return tuple(section.model_fields) if section else ()
