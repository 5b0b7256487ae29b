"""The steps of a source from raw files to its channel, and what is there of each: up to date, to do, or to redo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_prep.channels.indexed_writer import read_finished_parts
from data_prep.corpus.config import CorpusConfig, SourceConfig
from data_prep.corpus.jobs import Cleaning, Job, plan_of_job
from data_prep.corpus.made_of import Difference, differences, is_only_longer, recorded_plan
from data_prep.corpus.run_corpus import FOLDERS, Verb, job_of
from data_prep.prepare.channel_work import ChannelWork, look_at
from data_prep.prepare.tokenizing import tokenize_job
from data_prep.text.file_kinds import FILES_LIST, STATE_FOLDER
from data_prep.text.input_file import InputFile
from data_prep.text.input_files import find_inputs
from data_prep.text.set_aside import aside_of
from data_prep.text.text_files import finished_files
from harness.errors import DataError, UsageError
from harness.sole_writer import LOCK_FILE

Step = Literal["extract", "clean", "dedup", "order", "tokenize"]
Kind = Literal["up to date", "to do", "to go on", "to redo", "to put back", "to add to"]
TOKENIZED = "tokenized"
NEW = "not made yet"


@dataclass(frozen=True)
class State:
    """Result of a step, beside what should be there."""

    kind: Kind
    why: str = ""
    cause: Literal["settings", "growth", "damage"] = "settings"
    """Of a step to redo: `growth` if nothing is different but further files, `damage` if nothing but its own files."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus file, and what the caller allows."""

    config: CorpusConfig
    accepts_loss: bool = False
    replaces_channels: bool = False

    def source(self, name: str) -> SourceConfig:
        """Return a source."""
        return self.config.sources[name]

    def folder(self, name: str, step: Step) -> Path:
        """Return the folder of a step of a source."""
        return self.config.output / (TOKENIZED if step == "tokenize" else FOLDERS[step]) / name

    def channel(self, name: str) -> Path | None:
        """Return the folder of a source's channel; None without a section `tokenize`."""
        return self.config.tokenize.output / name if self.config.tokenize else None


def steps_of(corpus: Corpus, name: str, until: Step) -> list[Step]:
    """Return the steps of a source, in order: ordering only where the file asks for it, and the last one `until`."""
    steps: list[Step] = ["extract"] if corpus.source(name).extract else []
    steps += ["clean", "dedup"]
    if corpus.source(name).is_ordered:
        steps.append("order")
    if corpus.config.tokenize is not None:
        steps.append("tokenize")
    order: Sequence[Step] = ("extract", "clean", "dedup", "order", "tokenize")
    return [step for step in steps if order.index(step) <= order.index(until)]


def text_job(corpus: Corpus, name: str, verb: Verb, files: list[InputFile]) -> Job:
    """Return the job of a step that makes text of text."""
    config = corpus.config
    cleaning = Cleaning(config.language_model, corpus.accepts_loss)
    return job_of(verb, corpus.source(name), files, corpus.folder(name, verb), config.executor.tasks, cleaning)


def channel_work(corpus: Corpus, name: str, files: Sequence[InputFile]) -> ChannelWork:
    """Return the channel to make of a source.

    Raises:
        DataError: Its tokenizer is not there.
    """
    section, source, folder = corpus.config.tokenize, corpus.source(name), corpus.channel(name)
    if section is None or folder is None:
        raise AssertionError("a step without its section")
    config = section.options_of(source.tokenize)
    if not config.tokenizer.exists():
        raise DataError(
            f"tokenize.tokenizer: there is no {config.tokenizer}. Check the path; or prepare the text first (--until "
            f"{'order' if source.is_ordered else 'dedup'}), and train a tokenizer on it (harness data train-tokenizer)."
        )
    return ChannelWork(files=files, folder=folder, text_key=source.text_key, config=config)


def channel_job(corpus: Corpus, name: str, work: ChannelWork) -> Job:
    """Return the job that makes the channel of a source."""
    return tokenize_job(corpus.source(name), work, corpus.folder(name, "tokenize"))


def state_of(job: Job) -> State:
    """Compare what is in the folder of a step that makes text with what should be.

    Raises:
        UsageError: Something else is in it.
        DataError: Its record is unreadable.
    """
    recorded, aside = recorded_plan(job.output), aside_of(job.output)
    if recorded is None:
        _require_empty(job.output)
        return State("to put back", "made so before") if _is_result(job, aside) else State("to do", NEW)
    is_finished = job.is_finished()
    plan = plan_of_job(job, recorded)
    found = differences(recorded, plan, is_finished=is_finished)
    if found and _is_result(job, aside):
        return State("to put back", "made so before")
    if found:
        is_growth = [each.key for each in found] == ["input"] and is_only_longer(recorded, plan)
        return State("to redo", _words(found), "growth" if is_growth else "settings")
    if not (is_finished and job.is_tidy()):
        return State("to go on", "interrupted, or still running")
    if missing := _missing_file(job.output):
        return State("to redo", f"{missing} is not as it was written", "damage")
    return State("up to date")


def channel_state(work: ChannelWork) -> State:
    """Compare a channel with what should be.

    Raises:
        HarnessError: See `look_at`.
    """
    found, aside = look_at(work), aside_of(work.folder)
    is_other = found.there in ("nothing", "something else")
    if is_other and aside.is_dir() and look_at(replace(work, folder=aside)).there == "all":
        return State("to put back", "made so before")
    kinds: Mapping[str, Kind] = {
        "nothing": "to do",
        "all": "up to date",
        "begun": "to go on",
        "less": "to add to",
        "something else": "to redo",
    }
    return State(kinds[found.there], found.why or (NEW if found.there == "nothing" else ""))


def refusal_to_replace(corpus: Corpus, work: ChannelWork, why: str) -> str | None:
    """Return why a channel is not replaced: it has parts, which a run may train on, and nobody asked for it."""
    if corpus.replaces_channels or not read_finished_parts(work.folder):
        return None
    return (
        f"{work.folder}: the channel would have to be made anew, and a run may train on it ({why}). It stays as it is. "
        "Name another folder (tokenize.output) for the new channels, prepare the text only (--until dedup), or replace "
        "the channel with --replace-channels when no run needs it."
    )


def _words(found: Sequence[Difference]) -> str:
    return "; ".join(words for each in found for words in each.words)


def _require_empty(folder: Path) -> None:
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in there if name not in (LOCK_FILE, STATE_FOLDER)]
    if foreign:
        raise UsageError(
            f"{folder} holds {foreign[0]}, and no record of a step that made it. It stays as it is: choose another "
            "output, or move it elsewhere."
        )


def _is_result(job: Job, folder: Path) -> bool:
    """Return whether a folder holds the finished result of a job."""
    recorded = recorded_plan(folder) if (folder / FILES_LIST).is_file() else None
    if recorded is None:
        return False
    return not differences(recorded, plan_of_job(job, recorded), is_finished=True) and not _missing_file(folder)


def _missing_file(folder: Path) -> str | None:
    for report in finished_files(folder).values():
        for name, size in report.written.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                return name
    return None


@dataclass(frozen=True)
class Line:
    """A line of the table of what would be done."""

    source: str
    step: Step
    kind: Kind
    why: str
    refusal: str | None = None
    """Why it is not done, although it should be."""


def look_ahead(corpus: Corpus, name: str, until: Step, files: list[InputFile]) -> list[Line]:
    """Return what would be done for a source. Nothing is changed.

    Raises:
        HarnessError: Something else is in a folder, a record is unreadable, or the tokenizer or its options do not fit.
    """
    lines: list[Line] = []
    first: State | None = None
    """The first one that is not up to date: what is behind it depends on what it writes."""
    for step in steps_of(corpus, name, until):
        refusal: str | None = None
        if first is not None:
            state, refusal = _behind(corpus, name, step, lines[-1], first)
        elif step == "tokenize":
            work = channel_work(corpus, name, files)
            state = channel_state(work)
            refusal = refusal_to_replace(corpus, work, state.why) if state.kind == "to redo" else None
        else:
            job = text_job(corpus, name, step, files)
            state = state_of(job)
            folder = aside_of(job.output) if state.kind == "to put back" else job.output
            if state.kind in ("up to date", "to put back"):
                files = written_files(folder)
            else:
                first = state
        lines.append(Line(name, step, state.kind, state.why, refusal))
    return lines


def _behind(corpus: Corpus, name: str, step: Step, last: Line, first: State) -> tuple[State, str | None]:
    """Return the state of a step whose input is not there yet, and why it will not be done."""
    why = f"after {last.step}, if that writes something else"
    if step != "tokenize":
        is_finished = (corpus.folder(name, step) / FILES_LIST).exists()
        return (State("to redo", why) if is_finished else State("to do", f"after {last.step}")), None
    work = channel_work(corpus, name, [])
    work.require_fitting()
    if not read_finished_parts(work.folder):
        return State("to do", f"after {last.step}"), None
    if first.cause == "growth" and not corpus.source(name).is_ordered:
        return State("to add to", why), None
    is_certain = first.kind == "to redo" and first.cause != "damage"
    return State("to redo", why), refusal_to_replace(corpus, work, first.why) if is_certain else None


def written_files(folder: Path) -> list[InputFile]:
    """Return the files of text in the finished folder of a step."""
    return find_inputs([str(folder)], tell=lambda _: None)
