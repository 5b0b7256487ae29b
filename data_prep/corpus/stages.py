"""Runs pipelines one after another on datatrove's executors: a pool of this machine, Slurm, or Ray.

A stage is a pipeline and the number of its tasks. datatrove writes a file for every finished task, in a
hidden folder of the output. So a later call continues an interrupted one, on any executor.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import multiprocess
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from data_prep.corpus.config import ExecutorConfig
from data_prep.text.file_kinds import STATE_FOLDER
from data_prep.text.own_json import read_own
from data_prep.text.text_files import unreadable
from harness.errors import DataError, UsageError
from harness.progress import Progress
from harness.run.files import replace_file

JOBS_FILE = "jobs.json"
SECONDS_BETWEEN_LOOKS = 0.2
SAFE_PATH = re.compile(r"[A-Za-z0-9/._-]+")


@dataclass(frozen=True)
class Stage:
    """A pipeline, and into how many tasks it is cut."""

    name: str
    steps: tuple[PipelineStep, ...]
    tasks: int
    bytes_per_task: tuple[int, ...] = ()
    """Input of each task, for the display of progress; empty for stages that read no text."""


def stage_folder(output: Path, stage: Stage) -> Path:
    """Return the folder in which a stage keeps its logs and its record of finished tasks."""
    return output / STATE_FOLDER / stage.name


def tasks_done(output: Path, stage: Stage) -> list[int]:
    """Return the numbers of the finished tasks."""
    folder = stage_folder(output, stage) / "completions"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and int(name) < stage.tasks)


def is_done(output: Path, stages: Sequence[Stage]) -> bool:
    """Return whether every task of every stage is finished."""
    return all(len(tasks_done(output, stage)) == stage.tasks for stage in stages)


def run_here(output: Path, stages: Sequence[Stage], config: ExecutorConfig, progress: Progress) -> None:
    """Run the unfinished stages in a pool of this machine, or on Ray, and wait for them.

    Raises:
        UsageError: Ray is not installed.
        HarnessError: What a task says.
        DataError: A task failed where its error cannot be seen.
    """
    # datatrove's pool would fork; a process with threads (progress, readers) must not.
    multiprocess.set_start_method("forkserver", force=True)
    multiprocess.set_forkserver_preload(["data_prep.corpus.follow_caller"])  # killed, this process leaves no worker
    logger.remove()
    with _watched(output, stages, progress):
        for stage in stages:
            _executor(output, stage, config, None).run()
            if not is_done(output, [stage]):
                raise DataError(_failed(output, stage))


def submit(output: Path, stages: Sequence[Stage], config: ExecutorConfig) -> list[str]:
    """Submit the unfinished stages to Slurm; each starts when the one before it has succeeded.

    Returns:
        The numbers of the jobs, also kept in a file beside the stages.

    Raises:
        UsageError: There is no `executor.slurm` section, or Slurm refuses the jobs.
    """
    jobs: list[str] = []
    before: SlurmPipelineExecutor | None = None
    logger.remove()
    for stage in stages:
        if is_done(output, [stage]):
            continue
        executor = _executor(output, stage, config, before)
        try:
            executor.run()
        except (OSError, subprocess.CalledProcessError) as error:
            raise UsageError(
                f"Slurm did not take the job ({error}). Check that sbatch works here, and the partition, time and "
                "memory of executor.slurm."
            ) from error
        if executor.job_id not in (None, -1):
            jobs.append(str(executor.job_id))
        before = executor
    replace_file(output / STATE_FOLDER / JOBS_FILE, json.dumps(jobs).encode() + b"\n")
    return jobs


def submitted_jobs(output: Path) -> list[str]:
    """Return the jobs that were submitted last; empty if there are none.

    Raises:
        DataError: The list is unreadable.
    """
    file = output / STATE_FOLDER / JOBS_FILE
    if not file.exists():
        return []
    try:
        jobs = read_own(file)
        if not isinstance(jobs, list) or not all(isinstance(job, str) and job.isdecimal() for job in jobs):
            raise ValueError("it is not a list of numbers of jobs")
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error
    return jobs


class QuietLocalExecutor(LocalPipelineExecutor):  # type: ignore[misc] # datatrove has no types
    """datatrove's pool, whose logs stay in their files."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:  # noqa: ANN401
        with redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


def _executor(output: Path, stage: Stage, config: ExecutorConfig, before: PipelineExecutor | None) -> PipelineExecutor:
    shared: dict[str, Any] = {
        "pipeline": list(stage.steps),
        "tasks": stage.tasks,
        "logging_dir": str(stage_folder(output, stage).resolve()),
    }
    if config.kind == "local":
        return QuietLocalExecutor(workers=min(config.local.workers, stage.tasks), **shared)
    if config.kind == "ray":
        ray = config.ray
        _start_ray(ray.address)
        workers, cpus, memory = ray.workers or -1, ray.cpus_per_task, ray.mem_per_cpu_gb
        return RayPipelineExecutor(workers=workers, cpus_per_task=cpus, mem_per_cpu_gb=memory, **shared)
    slurm = config.slurm
    if slurm is None:
        raise UsageError("executor slurm needs a section executor.slurm with at least partition and time.")
    if not SAFE_PATH.fullmatch(shared["logging_dir"]):
        raise UsageError(
            f"{output}: on Slurm the path of the output may only have letters, digits and '/._-', because it stands in "
            "the script of the job. Choose another output."
        )
    # The job finds datatrove's program beside the Python that submits it.
    environment = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    return SlurmPipelineExecutor(
        time=slurm.time,
        partition=slurm.partition,
        cpus_per_task=slurm.cpus_per_task,
        mem_per_cpu_gb=slurm.mem_per_cpu_gb,
        workers=slurm.workers or -1,
        qos=slurm.qos,
        job_name=f"harness-{stage.name}",
        env_command=f"{slurm.environment or 'true'}\n{environment}",
        # A stage whose predecessor failed would wait for ever.
        sbatch_args={"kill-on-invalid-dep": "yes", **slurm.sbatch},
        depends=before,
        **shared,
    )


def _start_ray(address: str | None) -> None:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "executor ray needs the Python package ray, which is not installed. Install the project with its "
            "`data-ray` extra, or use another executor."
        ) from error
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, include_dashboard=False)


@contextmanager
def _watched(output: Path, stages: Sequence[Stage], progress: Progress) -> Iterator[None]:
    """Report finished tasks to the display at regular intervals."""
    reported: set[tuple[str, int]] = set()
    ended = threading.Event()

    def watch() -> None:
        is_last = False
        while not is_last:
            is_last = ended.wait(SECONDS_BETWEEN_LOOKS)
            for stage in stages:
                for task in tasks_done(output, stage) if stage.bytes_per_task else ():
                    if (stage.name, task) not in reported:
                        reported.add((stage.name, task))
                        progress(stage.bytes_per_task[task])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _failed(output: Path, stage: Stage) -> str:
    done = len(tasks_done(output, stage))
    return (
        f"{output}: {stage.tasks - done} of {stage.tasks} tasks of {stage.name} failed. Their logs are in "
        f"{stage_folder(output, stage) / 'logs'}. Run the same command again when the cause is removed: finished tasks "
        "are not done again."
    )
