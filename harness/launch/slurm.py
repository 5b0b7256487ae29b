"""The sbatch command of a run, as a list of arguments (never a line for a shell), and Slurm's answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.operation import LaunchConfig
from harness.errors import UsageError
from harness.launch.gpu_request import own_flags
from harness.run.paths import RunDir

PASSED_ON = ("HOME", "LANG", "LOGNAME", "PATH", "USER")
"""Variables of the login shell that a job gets. The others would make runs depend on the submitting user."""

_PATIENCE_S = 120.0
_TIME = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
_OWN_FLAGS = {
    "--array": "a run is one job; for several runs call `harness launch` once for each configuration",
    "--account": "set launch.account",
    "--chdir": "call `harness launch` in the directory that paths in the configuration are relative to",
    "--dependency": "give --dependency to `harness launch`",
    "--export": "set variables in launch.environment_file",
    "--exclusive": "set launch.whole_nodes",
    "--job-name": "set run.name",
    "--no-requeue": "the run must come back by itself",
    "--nodes": "set launch.nodes",
    "--ntasks": "set launch.workers_per_node",
    "--ntasks-per-node": "set launch.workers_per_node",
    "--output": "the logs are in the run's directory",
    "--partition": "set launch.partition",
    "--signal": "set launch.signal_lead_s",
    "--time": "set launch.time_limit",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job to queue."""

    name: str
    run_dir: Path
    """Absolute."""
    submission: Path
    """The folder of the submission in the run's `launches`. Absolute."""
    working_directory: Path
    """Base of relative paths in the configuration. Absolute."""
    settings: LaunchConfig
    nodes: int
    python: str
    slurm_dir: Path
    """Folder of the batch scripts."""
    dependency: str | None = None


def sbatch_command(job: Job) -> list[str]:
    """Return the command that queues the job."""
    settings = job.settings
    size = {"job-name": job.name, "nodes": job.nodes, "ntasks-per-node": 1}
    flags = {
        "time": settings.time_limit,
        "signal": f"B:USR2@{settings.signal_lead_s}",
        "partition": settings.partition,
        "account": settings.account,
        "dependency": job.dependency,
        "open-mode": "append",
        "output": RunDir(job.run_dir).job_log("%j"),
        "chdir": job.working_directory,
        "export": ",".join(PASSED_ON),
    }
    return [
        "sbatch",
        "--parsable",
        "--requeue",
        # Without --mem=0 the partition's default may be a fraction of the node's memory.
        *(["--exclusive", "--mem=0"] if settings.whole_nodes else []),
        *(f"--{name}={value}" for name, value in size.items()),
        *own_flags(settings),
        *(f"--{name}={value}" for name, value in flags.items() if value is not None),
        *settings.sbatch_flags,
        str(job.slurm_dir / "train.sbatch"),
        str(job.run_dir),
        str(job.submission),
        job.python,
        str(job.slurm_dir),
        "" if settings.environment_file is None else str(job.working_directory / settings.environment_file),
        settings.container_image or "",
        _mounts(job),
        "watch" if settings.watch else "",
    ]


def flag_problems(flags: Sequence[str]) -> list[str]:
    """Return the problems of `launch.sbatch_flags`: flags that harness sets itself."""
    names = (flag.partition("=")[0] for flag in flags)
    return [f"launch.sbatch_flags: {name} is not allowed: {_OWN_FLAGS[name]}" for name in names if name in _OWN_FLAGS]


def seconds_of(time_limit: str) -> int:
    """Return the seconds of a time limit in Slurm's format. A bare number is minutes, after days it is hours."""
    match = _TIME.fullmatch(time_limit)
    assert match is not None, f"the configuration should have refused the time limit {time_limit!r}"
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:  # minutes, with or without seconds
        return first * 60 + second
    return ((days * 24 + first) * 60 + second) * 60 + third


def submit(command: Sequence[str]) -> str:
    """Queue a job and return its number.

    Raises:
        UsageError: Slurm is not here, or refused the job.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError:
        raise UsageError(
            "there is no `sbatch` here; call `harness launch` on a login node of the cluster, or `harness train` to "
            "train on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"Slurm did not answer within {_PATIENCE_S:g} s; look with `squeue --me` whether the job was queued"
        ) from None
    job_id = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not job_id.isdecimal():
        said = (done.stderr.strip() or done.stdout.strip()).removeprefix("sbatch: ")
        raise UsageError(f"Slurm refused the job: {said}")
    return job_id


def _mounts(job: Job) -> str:
    """Return the container's mounts: run, working directory, source tree of harness, and those of the configuration."""
    if job.settings.container_image is None:
        return ""
    folders = dict.fromkeys((job.run_dir, job.working_directory, job.slurm_dir.parent))
    return ",".join([*(f"{folder}:{folder}" for folder in folders), *job.settings.container_mounts])
