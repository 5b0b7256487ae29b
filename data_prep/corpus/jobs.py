"""A source on its way through one verb: which stages, where, and the report at the end."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.corpus.config import DedupConfig, DedupMethod, ExecutorConfig, SourceConfig
from data_prep.corpus.fit import fit_file, kept_fit
from data_prep.corpus.judging import judging_files
from data_prep.corpus.loss import require_accepted
from data_prep.corpus.made_of import PLAN_FILE, TASKS, as_text, differences, plan_of, recorded_plan, shown
from data_prep.corpus.near import choose_bands
from data_prep.corpus.outcome import REPORT, read_reports
from data_prep.corpus.pipelines import LARGEST_PRIORITY, Reading, clean_stages, dedup_stages
from data_prep.corpus.stages import Stage, run_here
from data_prep.corpus.threshold_curve import (
    CURVE_FILE,
    MeasureCurve,
    WriteMinima,
    pick_threshold,
    read_curve,
    wanted_characters,
)
from data_prep.text.file_hashes import known_hash
from data_prep.text.file_kinds import DROPPED, FILES_LIST, STATE_FOLDER
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.text_files import (
    FileReport,
    finished_files,
    output_names,
    record_finished,
    require_written,
)
from data_prep.text.write_errors import explaining_write_errors
from harness.errors import DataError, UsageError
from harness.progress import Progress
from harness.run.files import replace_file
from harness.sole_writer import LOCK_FILE, SoleWriter, refuse_links, sole_writer


@dataclass(frozen=True, kw_only=True)
class Job:
    """One source, the steps to apply to it, and their files."""

    title: str
    output: Path
    reading: Reading
    phases: Sequence[Callable[[], list[Stage]]]
    """Lists of stages, each known when the one before it is done."""
    num_readings: int
    """Number of times that the text is read."""
    folders: Sequence[Path]
    """Folder with the files of each step; the last one is the output."""
    steps: Sequence[str]
    """Name of each step."""
    settings: dict[str, Any]
    """All that the result depends on, besides the input."""
    most_dropped_share: float = 1.0
    """Share of a source, or of a language in it, above which a rule may not drop without being accepted."""
    accepts_loss: bool = False

    @property
    def work(self) -> Path:
        """Folder that is not needed at the end."""
        return self.output / STATE_FOLDER / "work"

    @property
    def bytes_to_read(self) -> int:
        """Of all readings."""
        return self.num_readings * sum(self.reading.sizes)

    def is_finished(self) -> bool:
        """Return whether the report is written."""
        return (self.output / FILES_LIST).exists()

    def is_tidy(self) -> bool:
        """Return whether what was needed only on the way is gone: of a finished job, the last thing that is done."""
        return not (self.output / (self.reading.names[-1] + REPORT)).exists()


@dataclass(frozen=True)
class Cleaning:
    """Further conditions of cleaning, besides the settings of a source."""

    language_model: Path | None = None
    accepts_loss: bool = False
    """True if a person has seen how much the rules drop."""


def clean_job(
    source: SourceConfig,
    files: list[InputFile],
    output: Path,
    tasks: int | None = None,
    cleaning: Cleaning = Cleaning(),
) -> Job:
    """Clean a source."""
    work = output / STATE_FOLDER / "work"
    reading = reading_of(files, output, source, tasks)
    judged_by = {str(file): known_hash(file) for file in judging_files(source.cleaning)}
    return Job(
        title=f"clean {output.name}",
        output=output,
        reading=reading,
        phases=(partial(clean_stages, reading, source.cleaning, cleaning.language_model, work),),
        num_readings=1,
        folders=(output,),
        steps=("clean",),
        settings={
            "clean": source.cleaning.model_dump(exclude={"most_dropped_share"}),
            "language_model": str(cleaning.language_model) if cleaning.language_model else None,
            **({"judged_by": judged_by} if judged_by else {}),
        },
        most_dropped_share=source.cleaning.most_dropped_share,
        accepts_loss=cleaning.accepts_loss,
    )


def dedup_job(source: SourceConfig, files: list[InputFile], output: Path, tasks: int | None = None) -> Job:
    """Take the copies out of a source, by one method after the other."""
    config, work = source.deduplication, output / STATE_FOLDER / "work"
    folders = [*(work / method / "files" for method in config.methods[:-1]), output]
    first = reading_of(files, folders[0], source, tasks)
    after = [
        replace(first, files=[before / name for name in first.names], folder=folder)
        for before, folder in itertools.pairwise(folders)
    ]
    phases: list[Callable[[], list[Stage]]] = []
    for method, reading in zip(config.methods, [first, *after], strict=True):
        if method == "minhash" and config.keep is not None:
            phases.append(partial(_measuring_stages, reading, output))
        phases.append(partial(_method_stages, method, reading, config, output))
    return Job(
        title=f"dedup {output.name}",
        output=output,
        reading=first,
        phases=phases,
        num_readings=len(phases) + len(config.methods),
        folders=folders,
        steps=config.methods,
        settings={"dedup": config.model_dump()},
    )


def run_job(job: Job, config: ExecutorConfig, progress: Progress) -> list[FileReport]:
    """Run the unfinished tasks of a job, here or on Ray, and report on all files.

    Raises:
        HarnessError: See `run_here`; the folder holds something else, another process works on it, the disk is full, or
            the folder was deleted, moved or replaced meanwhile.
    """
    with claimed(job) as held:
        for phase in job.phases if not job.is_finished() else ():
            run_here(job.output, phase(), config, progress)
            held.require()
        return finish(job, held)


@contextmanager
def claimed(job: Job) -> Iterator[SoleWriter]:
    """Make the folder of a job, keep others out, and refuse one that holds something else.

    Raises:
        UsageError: It holds something else, or another process writes it.
        DataError: Its state is unreadable or has links; it cannot be written; or it was deleted, moved or replaced.
    """
    with explaining_write_errors(job.output, "Finished files"):
        job.output.mkdir(parents=True, exist_ok=True)
        with sole_writer(job.output) as held:
            refuse_links(job.output / STATE_FOLDER)
            _check_plan(job)
            yield held


def plan_of_job(job: Job, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the folder of a job is made of, as its record has it.

    Raises:
        DataError: An input file cannot be read.
    """
    reading = job.reading
    return plan_of(reading.files, {"text_key": reading.text_key, TASKS: reading.tasks, **job.settings}, recorded)


def _check_plan(job: Job) -> None:
    recorded = recorded_plan(job.output)
    plan = plan_of_job(job, recorded)
    if recorded is not None:
        for found in differences(recorded, plan, is_finished=job.is_finished()):
            raise UsageError(
                f"{job.output} was made of another {found.key}: there {shown(found.there)}, now {shown(found.now)} "
                f"({'; '.join(found.words)}). It stays as it is. Choose another --output, or delete it to make it "
                "anew; with a corpus file, `harness data prepare` makes anew what changed and leaves alone the rest."
            )
        return
    if any(path.name not in (LOCK_FILE, STATE_FOLDER) for path in job.output.iterdir()):
        raise UsageError(f"{job.output} is not empty. It stays as it is: choose another --output, or delete it.")
    file = job.output / STATE_FOLDER / PLAN_FILE
    file.parent.mkdir(exist_ok=True)
    replace_file(file, as_text(plan).encode() + b"\n")


def finish(job: Job, held: SoleWriter) -> list[FileReport]:
    """Write the report from those of the files, and remove what was needed only on the way.

    Raises:
        DataError: A file is not there as it was written, the folder was deleted, moved or replaced, or a rule drops
            too much.
    """
    names = job.reading.names
    if not job.is_finished():
        by_step = [read_reports(folder, names) for folder in job.folders]
        reports = [_joined(reports) for reports in zip(*by_step, strict=True)]
        require_accepted(job.output, reports, job.most_dropped_share, is_accepted=job.accepts_loss)
        held.require()
        require_written(job.output, reports)
        record_finished(job.output, reports)
    for folder, step in zip(job.folders[:-1], job.steps, strict=False):
        for name in names:
            listed = folder / (name + DROPPED)
            if listed.exists():
                shutil.move(listed, job.output / f"{name}.{step}{DROPPED}")
    with suppress(FileNotFoundError):
        fit_file(job.work).rename(kept_fit(job.output))
    shutil.rmtree(job.work, ignore_errors=True)
    for name in names:
        (job.output / (name + REPORT)).unlink(missing_ok=True)
    finished = finished_files(job.output)
    if missing := [name for name in names if name not in finished]:
        raise DataError(
            f"{job.output / FILES_LIST}: {missing[0]} is not in it. Was it edited? Restore it, or delete the folder."
        )
    return [finished[name] for name in names]


def _joined(reports: Sequence[FileReport]) -> FileReport:
    """Return one report on a file from its reports of several steps."""
    last, dropped = reports[-1], dict(dropped_of(reports))
    return replace(
        reports[0],
        kept=last.kept,
        kept_characters=last.kept_characters,
        dropped=dropped,
        written=last.written,
        hashes=last.hashes,
    )


def dropped_of(reports: Sequence[FileReport]) -> Counter[str]:
    """Return the documents that were dropped in all reports, by the reason."""
    return sum((Counter(report.dropped) for report in reports), Counter[str]())


def reading_of(files: list[InputFile], folder: Path, source: SourceConfig, tasks: int | None) -> Reading:
    """Return the files of a source, the names and folder of their output, and the number of tasks."""
    return Reading(
        files=files,
        names=output_names(files),
        folder=folder,
        text_key=source.text_key,
        tasks=min(tasks or len(files), len(files), LARGEST_PRIORITY),
        sizes=[file_bytes(file) for file in files],
    )


def _measuring_stages(reading: Reading, output: Path) -> list[Stage]:
    state = (output / STATE_FOLDER).resolve()
    folder = state / "work" / "minima"
    folder.mkdir(parents=True, exist_ok=True)
    measure = MeasureCurve(folder, state / CURVE_FILE)
    return [reading.stage("curve-minima", WriteMinima(folder)), Stage("curve", (measure,), 1)]


def _method_stages(method: DedupMethod, reading: Reading, config: DedupConfig, output: Path) -> list[Stage]:
    threshold = config.threshold
    if method == "minhash" and config.keep is not None:
        curve = read_curve(output / STATE_FOLDER / CURVE_FILE)
        threshold = pick_threshold(curve, wanted_characters(config.keep, curve.characters))
    reading.folder.mkdir(parents=True, exist_ok=True)
    return dedup_stages(reading, method, choose_bands(threshold), output / STATE_FOLDER / "work" / method)
