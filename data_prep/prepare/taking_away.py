"""Takes away what a step has made of something else, before it is made anew; nothing that others put there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_prep.channels.indexed_writer import read_finished_parts
from data_prep.corpus.jobs import Job, plan_of_job
from data_prep.corpus.made_of import differences, marks_of, recorded_plan
from data_prep.corpus.slurm_jobs import jobs_in_queue
from data_prep.corpus.stages import submitted_jobs
from data_prep.prepare.channel_work import ChannelWork
from data_prep.prepare.steps import Corpus, State, Step, refusal_to_replace
from data_prep.prepare.tokenizing import NAME
from data_prep.text.file_kinds import FILES_LIST, PAGES
from data_prep.text.pages.bundles import bundles_of
from data_prep.text.set_aside import aside_of, put_back, set_aside
from data_prep.text.text_files import finished_files, output_names
from harness.channels.source import SOURCE_FILE
from harness.errors import UsageError

_ORDERED = re.compile(r"ordered|\d{5}\.jsonl\.gz|\.buckets-.*")
_OF_A_CHANNEL = re.compile(r"(part-\d+|parts|source|sources|rejected|resume|documents)\..*")


def make_room(job: Job, step: Step, state: State, readers: Sequence[Path]) -> None:
    """Give a step that makes text its folder: empty, as it was, or with the result that was set aside.

    `readers` are the folders of the steps that read it, one after the other.

    Raises:
        UsageError: Something of others is in it, or jobs in the queue work on it.
        DataError: The disk refused, or a record is unreadable.
    """
    if state.kind not in ("to redo", "to put back"):
        return
    require_no_jobs([job.output, *readers])
    is_own = own_names(job.output)
    if state.kind == "to put back":
        put_back(job.output, is_own)
        return
    # Of a cleaning that was not finished the files are taken over, unless there is a whole one.
    can_be_taken_over = step == "clean" and not aside_of(job.output).exists()
    set_aside(job.output, is_own, keep=job.is_finished() or can_be_taken_over)


def make_room_for_channel(corpus: Corpus, work: ChannelWork, job: Job, state: State) -> None:
    """Give a channel its folder in the same way, and its step a new record.

    Raises:
        UsageError: The channel has parts, and may not be replaced; or as `make_room`.
        DataError: As `make_room`.
    """
    recorded = recorded_plan(job.output)
    is_replaced = state.kind in ("to redo", "to put back")
    if is_replaced and (refusal := refusal_to_replace(corpus, work, state.why)):
        raise UsageError(refusal)
    if recorded is not None:
        is_other = differences(recorded, plan_of_job(job, recorded), is_finished=False)
        if job.is_finished() or is_other:
            require_no_jobs([job.output])
            set_aside(job.output, _known([NAME, FILES_LIST]), keep=False)
    if state.kind == "to put back":
        put_back(work.folder, _is_of_channel)
    elif state.kind == "to redo":
        set_aside(work.folder, _is_of_channel, keep=bool(read_finished_parts(work.folder)))


def own_names(folder: Path) -> Callable[[str], bool]:
    """Return whether a name in a folder of text is one that its step writes."""
    marks = marks_of(recorded_plan(folder) or {})
    outputs = output_names([Path(mark.name) for mark in marks])
    pages = [mark for mark in marks if PAGES.kind_of(mark.name)]
    outputs += [
        bundle.name for bundle in bundles_of([Path(mark.name) for mark in pages], [page.size for page in pages])
    ]
    is_known = _known([*outputs, *finished_files(folder), FILES_LIST])
    return lambda name: is_known(name) or _ORDERED.match(name) is not None


def _known(names: Iterable[str]) -> Callable[[str], bool]:
    """Return whether a name is one of these, with or without further endings."""
    known = set(names)

    def is_known(name: str) -> bool:
        while name not in known and "." in name:
            name = name.rpartition(".")[0]
        return name in known

    return is_known


def _is_of_channel(name: str) -> bool:
    return name == SOURCE_FILE or _OF_A_CHANNEL.fullmatch(name) is not None


def require_no_jobs(folders: Iterable[Path]) -> None:
    """Refuse to go on while Slurm is at a step that would be made of something else.

    Raises:
        UsageError: Its jobs are in the queue, or Slurm does not answer.
        DataError: The list of its jobs is unreadable.
    """
    for folder in folders:
        is_finished = (folder / FILES_LIST).exists()
        waiting = [] if is_finished else jobs_in_queue(submitted_jobs(folder))
        if waiting:
            raise UsageError(
                f"{folder}: Slurm jobs that make it of what it was made of before are in the queue "
                f"({', '.join(waiting)}). Wait for them, or cancel them (scancel {' '.join(waiting)}); then run the "
                "same command again."
            )
