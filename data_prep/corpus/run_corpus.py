"""Runs `harness data extract`, `clean`, `dedup` and `order`: source after source, with a display and a report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from data_prep.corpus.config import (
    CorpusConfig,
    ExecutorConfig,
    ExecutorKind,
    LocalConfig,
    SourceConfig,
    load_corpus,
)
from data_prep.text.file_kinds import FILES_LIST, PAGES, STATE_FOLDER, TEXT
from data_prep.text.input_file import InputFile
from data_prep.text.input_files import find_inputs
from data_prep.text.text_files import FileReport
from harness.errors import UsageError
from harness.progress import shown
from harness.say import say
from harness.screen import Screen

try:
    from data_prep.corpus.extracting import extract_job
    from data_prep.corpus.jobs import Cleaning, Job, clean_job, dedup_job, dropped_of, run_job
    from data_prep.corpus.judging import LEAST_SAMPLED, LOW_QUALITY
    from data_prep.corpus.ordering import order_job
    from data_prep.corpus.slurm_jobs import SlurmProgress, advance_on_slurm, wait_on_slurm
    from data_prep.corpus.threshold_curve import CURVE_FILE, read_curve
except ModuleNotFoundError as error:
    raise UsageError(
        f"cleaning and de-duplication need a Python package that is not installed ({error.name}). Install the project "
        "with its `data-clean` extra."
    ) from error


Verb = Literal["extract", "clean", "dedup", "order"]
FOLDERS: Mapping[Verb, str] = {"extract": "extracted", "clean": "cleaned", "dedup": "deduped", "order": "ordered"}
_LANGUAGES_SHOWN = 40
_NOT_APPLIED_SHOWN = 10


@dataclass(frozen=True)
class Manner:
    """Manner in which a verb is run, whatever it does."""

    as_json: bool = False
    """Print JSON instead of a table."""
    wait: bool = False
    """On Slurm: stay until all jobs have ended."""
    accepts_loss: bool = False
    """Go on although a rule drops a large share."""


def run_corpus(
    verb: Verb, file: Path, *, sources: Sequence[str], executor: ExecutorKind | None, manner: Manner
) -> None:
    """Take the text out of the sources of a corpus file, clean them, take the copies out, or order what is left.

    Without `sources` it works on all of them; `executor` wins over the kind in the file.

    Raises:
        UsageError: There is no such source, or one has not been through the step before.
    """
    config = load_corpus(file)
    names = chosen_sources(config, sources)
    if verb == "extract":
        names = _of_pages(config, names, is_chosen=bool(sources))
    jobs = []
    for name in names:
        source = config.sources[name]
        before = verb_before(verb, source)
        files = step_before(config, before, name) if before else raw_files(source)
        output = config.output / FOLDERS[verb] / name
        cleaning = Cleaning(config.language_model, manner.accepts_loss)
        jobs.append(job_of(verb, source, files, output, config.executor.tasks, cleaning))
    chosen = config.executor.model_copy(update={"kind": executor or config.executor.kind})
    done = _on_slurm(jobs, chosen, manner.wait) if chosen.kind == "slurm" else _here(jobs, chosen)
    _print_reports(done, manner.as_json)


def chosen_sources(config: CorpusConfig, sources: Sequence[str]) -> list[str]:
    """Return the sources that are named, in the order of the file; all if none is.

    Raises:
        UsageError: There is no such source.
    """
    unknown = [name for name in sources if name not in config.sources]
    if unknown:
        raise UsageError(f"--source {unknown[0]}: there is no such source. Sources: {', '.join(config.sources)}.")
    return [name for name in config.sources if not sources or name in sources]


def verb_before(verb: Verb, source: SourceConfig) -> Verb | None:
    """Return the verb whose output another one reads; None if that is the raw input."""
    if verb == "clean":
        return "extract" if source.extract else None
    before: Mapping[Verb, Verb] = {"dedup": "clean", "order": "dedup"}
    return before.get(verb)


def raw_files(source: SourceConfig) -> list[InputFile]:
    """Return the input files of a source, of pages or of text.

    Raises:
        HarnessError: See `find_inputs`.
    """
    return find_inputs(source.input, endings=PAGES if source.extract else TEXT)


def _of_pages(config: CorpusConfig, names: Sequence[str], *, is_chosen: bool) -> list[str]:
    """Return the sources whose text is to be extracted."""
    found = [name for name in names if config.sources[name].extract]
    other = [name for name in names if name not in found]
    if not found or (is_chosen and other):
        raise UsageError(
            f"source {other[0]} has no section extract, so it is text already: clean it. For HTML, WARC and PDF write "
            "`extract: {}` into it."
        )
    return found


def one_source(
    verb: Verb, source: SourceConfig, output: Path, *, workers: int, language_model: Path | None, manner: Manner
) -> None:
    """Run one source without a corpus file on this machine."""
    job = job_of(verb, source, raw_files(source), output, None, Cleaning(language_model, manner.accepts_loss))
    _print_reports(_here([job], ExecutorConfig(local=LocalConfig(workers=workers))), manner.as_json)


def job_of(
    verb: Verb,
    source: SourceConfig,
    files: list[InputFile],
    output: Path,
    tasks: int | None,
    cleaning: Cleaning,
) -> Job:
    """Return what a verb does to a source."""
    if verb == "extract":
        return extract_job(source, files, output, tasks)
    if verb == "clean":
        return clean_job(source, files, output, tasks, cleaning)
    return dedup_job(source, files, output, tasks) if verb == "dedup" else order_job(source, files, output)


def step_before(config: CorpusConfig, verb: Verb, name: str) -> list[InputFile]:
    """Return the files of a source that an earlier step has written.

    Raises:
        UsageError: It has not finished.
    """
    folder = config.output / FOLDERS[verb] / name
    if not (folder / FILES_LIST).exists():
        raise UsageError(
            f"source {name} has not been processed by `harness data {verb}` yet ({folder}). Run that first."
        )
    return find_inputs([str(folder)])


def _here(jobs: Sequence[Job], executor: ExecutorConfig) -> dict[Path, list[FileReport]]:
    reports = {}
    for job in jobs:
        # The stream is taken now, because tasks in this process may replace it for a while.
        with shown(job.title, job.bytes_to_read, Screen(file=sys.stderr)) as progress:
            reports[job.output] = run_job(job, executor, progress)
    return reports


def _on_slurm(jobs: Sequence[Job], executor: ExecutorConfig, wait: bool) -> dict[Path, list[FileReport]]:
    """Submit all jobs before waiting for the first; report on those that are done."""
    reports = {}
    for job in jobs:
        progress = advance_on_slurm(job, executor)
        if progress.reports is not None:
            reports[job.output] = progress.reports
        else:
            tell_progress(job, progress)
    for job in jobs if wait else ():
        if job.output not in reports:
            reports[job.output] = wait_on_slurm(job, executor, partial(tell_progress, job))
    return reports


def tell_progress(job: Job, progress: SlurmProgress) -> None:
    """Say how far the tasks of a job are on Slurm."""
    numbers = ", ".join(progress.jobs)
    what = f"submitted as {numbers}" if progress.submitted else f"in the queue as {numbers}"
    say(
        f"{job.title}: {progress.tasks_done} of {progress.tasks} tasks done, {what}. Run the same command again to "
        "see how far it is, and for the report.",
        err=True,
    )


def _print_reports(by_folder: dict[Path, list[FileReport]], as_json: bool) -> None:
    if as_json:
        found = [asdict(report) for reports in by_folder.values() for report in reports]
        say(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for folder, reports in by_folder.items():
        print_report(folder, reports)


def print_report(folder: Path, reports: Sequence[FileReport]) -> None:
    """Say what became of the documents."""
    if (folder / STATE_FOLDER / CURVE_FILE).exists():
        curve = read_curve(folder / STATE_FOLDER / CURVE_FILE)
        say(f"{folder}: what each threshold leaves of {curve.characters:,} characters:")
        for point in curve.points:
            say(f"  {point.threshold:.2f}: {point.characters:,} ({_percent(point.characters, curve.characters)})")
    documents, kept = sum(report.documents for report in reports), sum(report.kept for report in reports)
    characters = sum(report.characters for report in reports)
    kept_characters = sum(report.kept_characters for report in reports)
    say(
        f"{folder}: kept {kept:,} of {documents:,} documents ({_percent(kept, documents)}), "
        f"{kept_characters:,} of {characters:,} characters ({_percent(kept_characters, characters)})"
    )
    for reason, count in dropped_of(reports).most_common():
        say(f"  {reason}: {count:,} ({_percent(count, documents)})")
    _print_languages(reports)
    _print_not_applied(_total(report.unknown for report in reports))


def _print_languages(reports: Sequence[FileReport]) -> None:
    """Say what became of each language; nothing where all is English."""
    languages = _total(report.languages for report in reports)
    dropped = _total(report.dropped_by_language for report in reports)
    if set(languages) <= {"en"}:
        return
    for language, count in languages.most_common(_LANGUAGES_SHOWN):
        rules = Counter({name.partition("/")[2]: n for name, n in dropped.items() if name.startswith(f"{language}/")})
        why = ", ".join(f"{rule} {n:,}" for rule, n in rules.most_common())
        kept = count - rules.total()
        say(f"  language {language}: kept {kept:,} of {count:,} ({_percent(kept, count)}){': ' + why if why else ''}")
    if len(languages) > _LANGUAGES_SHOWN:
        say(f"  and {len(languages) - _LANGUAGES_SHOWN} more languages (--json has them)")


def _print_not_applied(unknown: Counter[str]) -> None:
    """Say where rules were not applied, of counts by `language/rule`."""
    for rule in dict.fromkeys(name.partition("/")[2] for name, _ in unknown.most_common()):
        by_language = Counter({name.partition("/")[0]: n for name, n in unknown.items() if name.endswith(f"/{rule}")})
        shown = ", ".join(f"{language} {count:,}" for language, count in by_language.most_common(_NOT_APPLIED_SHOWN))
        more = f" and {len(by_language) - _NOT_APPLIED_SHOWN} more" if len(by_language) > _NOT_APPLIED_SHOWN else ""
        if rule == LOW_QUALITY:
            say(
                f"  NOT APPLIED: {rule!r} to {by_language.total():,} documents of languages with fewer than "
                f"{LEAST_SAMPLED} documents in the sample: {shown}{more}. Give them a threshold.",
                err=True,
            )
            continue
        say(
            f"  NOT APPLIED: {rule!r} to {by_language.total():,} documents of languages that it does not know, or "
            f"whose words are not in this source: taken for {shown}{more}. If they are another language, name it "
            "(assume_language) or give a model that knows it (language_model).",
            err=True,
        )


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(each) for each in counts), Counter[str]())


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0.00%"
