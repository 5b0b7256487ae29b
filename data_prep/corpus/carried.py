"""Takes over, when a source is cleaned anew, the files whose result would be the same: only others are cleaned.

A file's result depends on the file, on the settings, and on which of its languages the lists of words fit in the whole
source (`data_prep.corpus.fit`). What was set aside says all of that.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.corpus.fit import fit_file, fitting_languages, kept_fit, read_fit
from data_prep.corpus.jobs import Job, plan_of_job
from data_prep.corpus.judging import depends_on_whole
from data_prep.corpus.made_of import INPUT, TASKS, Mark, differences, marks_of, recorded_plan
from data_prep.corpus.outcome import REPORT, read_reports, write_report
from data_prep.corpus.stages import Stage
from data_prep.corpus.steps import ReadFiles
from data_prep.text.file_kinds import STATE_FOLDER
from data_prep.text.set_aside import aside_of
from data_prep.text.text_files import FileReport, finished_files, output_names


@dataclass(frozen=True)
class Earlier:
    """Result of an earlier cleaning of a file."""

    folder: Path
    report: FileReport
    companions: tuple[str, ...]
    """Endings that the names of its files have behind its own name."""


def carrying(job: Job) -> Job:
    """Return a job of cleaning that takes over what was set aside of its folder.

    Raises:
        DataError: What was set aside is unreadable.
    """
    aside = aside_of(job.output)
    recorded = recorded_plan(aside)
    if recorded is None:
        return job
    plan = plan_of_job(job, recorded)
    if depends_on_whole(job.settings):
        return job
    if any(found.key not in (INPUT, TASKS) for found in differences(recorded, plan, is_finished=False)):
        return job
    (whole,) = job.phases
    there = _results_in(aside, marks_of(recorded))
    wanted = [there.get(mark) for mark in marks_of(plan)]

    def clean_the_others() -> list[Stage]:
        stage = whole()[-1]
        reader = stage.steps[0]
        if isinstance(reader, ReadFiles):
            reader.done_before = _take_over(job, aside, wanted)
        return [stage]

    return replace(job, phases=(lambda: whole()[:-1], clean_the_others))


def _results_in(aside: Path, marks: Sequence[Mark]) -> Mapping[Mark, Earlier]:
    """Return the files that were cleaned whole, by what they were made of."""
    # Their names follow from those of the input files, in order.
    names = output_names([Path(mark.name) for mark in marks])
    finished, companions = finished_files(aside), _companions(aside, names)
    found = {}
    for mark, name in zip(marks, names, strict=True):
        is_reported = name in finished or (aside / (name + REPORT)).is_file()
        if mark.xxh3 is None or not is_reported:
            continue
        report = finished.get(name) or read_reports(aside, [name])[0]
        is_whole = report.file == name and set(report.hashes) == set(report.written) == {name}
        if is_whole and _has_size(aside / name, report.written.get(name)):
            found[mark] = Earlier(aside, report, tuple(companions[name]))
    return found


def _has_size(file: Path, size: int | None) -> bool:
    return file.is_file() and file.stat().st_size == size


def _companions(aside: Path, names: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the endings of the files beside each output."""
    known, found = set(names), defaultdict[str, list[str]](list)
    for path in aside.iterdir():
        name = path.name
        while name not in known and "." in name:
            name = name.rpartition(".")[0]
        if name in known and not path.name.endswith(REPORT):
            found[name].append(path.name.removeprefix(name))
    return found


def _take_over(job: Job, aside: Path, wanted: Sequence[Earlier | None]) -> frozenset[int]:
    """Link the files that stay into the new folder, with their reports; return their numbers."""
    now, before = _trusted(job.work, job.output), _trusted(aside / STATE_FOLDER / "work", aside)
    taken = set()
    for number, earlier in enumerate(wanted):
        if earlier is None or not _judged_alike(earlier.report, before, now):
            continue
        name, old = job.reading.names[number], earlier.report.file
        for ending in sorted(earlier.companions):
            _link(earlier.folder / (old + ending), job.output / (name + ending))
        report = replace(
            earlier.report,
            file=name,
            input=str(job.reading.files[number]),
            written={name: earlier.report.written[old]},
            hashes={name: earlier.report.hashes[old]},
        )
        write_report(job.output, report)
        taken.add(number)
    return frozenset(taken)


def _trusted(work: Path, output: Path) -> frozenset[str] | None:
    """Return the languages whose lists of words fit a source; None if that was not measured."""
    file = next((file for file in (fit_file(work), kept_fit(output)) if file.is_file()), None)
    return None if file is None else fitting_languages(read_fit(file))


def _judged_alike(report: FileReport, before: frozenset[str] | None, now: frozenset[str] | None) -> bool:
    if before is None or now is None:
        return before is now
    return all((language in before) == (language in now) for language in report.languages)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
