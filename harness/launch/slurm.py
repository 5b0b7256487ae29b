"""The sbatch command of a run, as a list of arguments (never a line for a shell), and Slurm's answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.operation import LaunchConfig
from harness.config.problems import shortened
from harness.errors import UsageError
from harness.launch.gpu_request import GPU_FLAGS, own_flags
from harness.run.paths import RunDir
from harness.text import listed

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
    "--export-file": "set variables in launch.environment_file",
    "--exclusive": "set launch.whole_nodes",
    "--help": "it queues nothing",
    "--job-name": "set run.name",
    "--no-requeue": "the run must come back by itself",
    "--nodes": "set launch.nodes",
    "--ntasks": "set launch.workers_per_node",
    "--ntasks-per-node": "set launch.workers_per_node",
    "--open-mode": "a job that comes back goes on in its log",
    "--output": "the logs are in the run's directory",
    "--partition": "set launch.partition",
    "--signal": "set launch.signal_lead_s",
    "--test-only": "it queues nothing; give --dry-run to `harness launch`",
    "--time": "set launch.time_limit",
    "--usage": "it queues nothing",
    "--version": "it queues nothing",
    "--wait": "`harness launch` does not wait for the job; `harness status` tells where the run is",
    "--workdir": "call `harness launch` in the directory that paths in the configuration are relative to",
    "--wrap": "a job of a run is slurm/train.sbatch",
}
_WITH_VALUE = frozenset(
    (
        "--acctg-freq", "--batch", "--bb", "--bbf", "--begin", "--cluster-constraint", "--clusters", "--comment",
        "--constraint", "--container", "--container-id", "--core-spec", "--cores-per-socket", "--cpu-freq",
        "--cpus-per-gpu", "--cpus-per-task", "--deadline", "--delay-boot", "--distribution", "--exclude",
        "--error", "--extra", "--extra-node-info", "--gid", "--gpu-bind", "--gpu-freq", "--gpus",
        "--gpus-per-node", "--gpus-per-socket", "--gpus-per-task", "--gres", "--gres-flags", "--hint", "--input",
        "--kill-on-invalid-dep",
        "--licenses", "--mail-type", "--mail-user", "--mcs-label", "--mem", "--mem-bind", "--mem-per-cpu",
        "--mem-per-gpu", "--mincpus", "--network", "--nodefile", "--nodelist", "--ntasks-per-core",
        "--ntasks-per-gpu", "--ntasks-per-socket", "--power", "--prefer", "--priority", "--profile",
        "--propagate", "--qos", "--reservation", "--segment", "--sockets-per-node", "--switches", "--thread-spec",
        "--threads-per-core", "--time-min", "--tmp", "--tres-bind", "--tres-per-job", "--tres-per-node",
        "--tres-per-task", "--uid", "--wait-all-nodes", "--wckey",
    )
)  # fmt: skip
"""Options of sbatch with a value. Without `=` they would take the next word for it: the next flag, or the script."""
_WITHOUT_VALUE = frozenset(
    (
        "--contiguous", "--disable-stdout-job-summary", "--get-user-env", "--hold", "--ignore-pbs",
        "--nice", "--no-kill", "--overcommit", "--oversubscribe", "--parsable",
        "--quiet", "--reboot", "--requeue", "--resv-ports", "--spread-job", "--stepmgr", "--use-min-nodes",
        "--verbose",
    )
)  # fmt: skip
_IN_ENVIRONMENT = {
    "SBATCH_ARRAY_INX": _OWN_FLAGS["--array"],
    "SBATCH_WAIT": _OWN_FLAGS["--wait"],
    **dict.fromkeys(
        ("SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK", "SBATCH_GRES", "SBATCH_TRES_PER_NODE"),
        "put the request for GPUs into launch.sbatch_flags",
    ),
}
"""Variables that sbatch takes for flags which harness would refuse. Others, such as an account, are the user's."""
_DEPENDENCY = re.compile(r"[!-~]{1,1000}")


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
    """Return the problems of `launch.sbatch_flags`.

    Refused are flags that harness sets itself, abbreviations of them and of requests for GPUs, which sbatch takes for
    the whole names, and flags that would take the next word of the command for their value.
    """
    found = ((flag, flag_problem(flag, _OWN_FLAGS)) for flag in flags)
    return [f"launch.sbatch_flags: {flag.partition('=')[0]} {problem}" for flag, problem in found if problem]


def variable_problems(set_names: Iterable[str]) -> list[str]:
    """Return the problems of environment variables that are set: some are flags to sbatch that nobody would see."""
    return [
        f"the environment variable {name} is set, and sbatch takes it for a flag: {_IN_ENVIRONMENT[name]}; unset {name}"
        for name in sorted(set(set_names) & _IN_ENVIRONMENT.keys())
    ]


def dependency_problems(dependency: str | None) -> list[str]:
    """Return what is wrong with a dependency on other jobs."""
    if dependency is None or _DEPENDENCY.fullmatch(dependency):
        return []
    return [f"--dependency is {shortened(dependency)!r}; it must be as Slurm has it, such as afterany:4711"]


def flag_problem(flag: str, refused: Mapping[str, str]) -> str | None:
    """Return what is wrong with a user's flag for sbatch, or None.

    `refused` has the flags that are not allowed, each with the reason. They and requests for GPUs mean something to
    harness, and must not be hidden by an abbreviation.
    """
    name, equals, _ = flag.partition("=")
    if name in refused:
        return f"is not allowed: {refused[name]}"
    watched = {*refused, *GPU_FLAGS}
    if name in _WITH_VALUE or name in _WITHOUT_VALUE or name in watched:
        return "needs a value: write it behind '='" if name in _WITH_VALUE and not equals else None
    if whole := sorted(known for known in watched if known.startswith(name)):
        return f"is not allowed: sbatch takes it for {listed(whole)}; write the whole name"
    if any(known.startswith(name) for known in _WITH_VALUE) and not equals:
        return "needs a value: write the whole name, and the value behind '='"
    return None


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
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise UsageError(
            "there is no `sbatch` here; call `harness launch` on a login node of the cluster, or `harness train` to "
            "train on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"Slurm did not answer within {_PATIENCE_S:g} s; look with `squeue --me` whether the job was queued"
        ) from None
    except OSError as error:
        raise UsageError(f"`sbatch` cannot be run: {error.strerror}") from None
    job_id = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not re.fullmatch(r"[0-9]{1,18}", job_id):
        said = (done.stderr.strip() or done.stdout.strip()).removeprefix("sbatch: ")
        raise UsageError(f"Slurm refused the job: {said}")
    return job_id


def _mounts(job: Job) -> str:
    """Return the container's mounts: run, working directory, source tree of harness, and those of the configuration."""
    if job.settings.container_image is None:
        return ""
    folders = dict.fromkeys((job.run_dir, job.working_directory, job.slurm_dir.parent))
    return ",".join([*(f"{folder}:{folder}" for folder in folders), *job.settings.container_mounts])
