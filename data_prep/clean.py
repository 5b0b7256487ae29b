"""Drops documents that break a rule, file by file in several processes, and counts what each rule drops."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from data_prep.clean_rules import PRESETS, Preset, first_broken
from data_prep.input_files import InputFile
from data_prep.source import sole_writer
from data_prep.text_files import FileReport, filter_file, finished_files, output_names, record_finished
from harness.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CleanJob:
    """What to clean, and how."""

    inputs: Sequence[InputFile]
    folder: Path
    """Where the files go, under their names."""
    preset: Preset
    text_key: str = "text"
    spare_markup: bool = True
    """Whether code, Markdown and LaTeX are spared the rules for prose."""
    num_workers: int = 1


def clean_files(job: CleanJob, done: Callable[[int], None]) -> list[FileReport]:
    """Cleans the files that are not done yet; gives the reports of all, in the order of the input.

    Raises:
        UsageError: the folder is used by another process, or holds the files of other input.
        DataError: a file is damaged, or the disk is full.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    names = output_names(job.inputs)
    with sole_writer(job.folder):
        finished = finished_files(job.folder)
        for name, file in zip(names, job.inputs, strict=True):
            if name in finished and finished[name].input != str(file):
                raise UsageError(
                    f"{job.folder / name} was made of {finished[name].input}, not of {file}. Choose another --output."
                )
        todo = [(file, name) for file, name in zip(job.inputs, names, strict=True) if name not in finished]
        # Not forked: a fork of a process with threads (progress bar, readers) may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(job.num_workers, len(todo)) or 1, mp_context=context) as pool:
            running = [pool.submit(clean_file, job, file, name) for file, name in todo]
            for future in as_completed(running):
                report = future.result()
                finished[report.file] = report
                record_finished(job.folder, [finished[name] for name in names if name in finished])
                done(report.input_bytes)
    return [finished[name] for name in names]


def clean_file(job: CleanJob, file: InputFile, name: str) -> FileReport:
    """Cleans one file."""
    rules = PRESETS[job.preset]

    def judge(texts: list[str]) -> list[str | None]:
        return [first_broken(text, rules, job.spare_markup) for text in texts]

    return filter_file(file, job.folder / name, job.text_key, judge)
