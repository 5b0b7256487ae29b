"""`harness launch`: checks everything that can be checked here, then queues the run as one job."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import harness.launch as here
from harness.alerts.desk import AlertDesk
from harness.alerts.trial import send_test
from harness.config.load import load_config
from harness.errors import ConfigError, UsageError
from harness.launch.preflight import CHECKED, Request, check_request
from harness.launch.slurm import Job, dependency_problems, sbatch_command, submit
from harness.parallel.environment import alert_addresses
from harness.run.files import replace_file
from harness.run.launch_folder import make_run, write_config
from harness.run.launches import CONFIG, SUBMISSION, GitState, Submission, write_launch_file
from harness.run.paths import RunDir

SOURCE = Path(here.__path__[0]).parents[1]
"""The source tree that this package was installed from, where the batch scripts are."""
_GIT_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line besides the configuration."""

    run_dir: Path | None = None
    """Default: `runs/<run.name>`."""
    dependency: str | None = None
    """Passed to Slurm, such as `afterany:4711`."""
    dry_run: bool = False
    test_alert: bool = False
    """Send a message to every place for alerts first."""


def launch(
    config_path: Path, overrides: tuple[str, ...], options: Options, show: Callable[[str], None], slurm_dir: Path
) -> str | None:
    """Check the run, queue it and return the job's number; None for a dry run, which changes nothing.

    `overrides` are of the form `key.sub=value`, `show` shows a line to people, `slurm_dir` has the batch scripts.

    Raises:
        ConfigError: Something is wrong with the run. Nothing was queued or written.
        UsageError: Slurm is not here or refused the job, the batch scripts are missing, or a place did not take the
            test alert.
    """
    request = preflight(config_path, overrides, options, show)
    if options.test_alert:
        send_test(AlertDesk.of(request.run_dir, request.config, alert_addresses()), show)
    script = slurm_dir / "train.sbatch"
    if not script.is_file():
        raise UsageError(f"there is no {script}; install harness from its source tree (`pip install -e .`)")
    folder = request.run_dir.launch(request.run_dir.next_launch_number())
    command = sbatch_command(_job(request, folder, options, slurm_dir))
    if options.dry_run:
        show("\n".join(["checked and found good:", *(f"  {checked}" for checked in CHECKED)]))
        show(f"the job would be queued so, and run {script}:\n{shlex.join(command)}")
        return None
    return _queue(request, folder, command, show)


def preflight(config_path: Path, overrides: tuple[str, ...], options: Options, show: Callable[[str], None]) -> Request:
    """Check everything that can be checked here; print warnings, and raise all errors together.

    Raises:
        ConfigError: Something is wrong with the run.
    """
    config = load_config(config_path, overrides)
    if config.launch.nodes is None:
        raise ConfigError(["launch.nodes is not set; give --nodes N, or set it in the configuration"])
    root = options.run_dir if options.run_dir is not None else RunDir.of_run(config.run.name).root
    request = Request(
        config=config,
        run_dir=RunDir(root.absolute()),
        nodes=config.launch.nodes,
        after_another=options.dependency is not None,
    )
    findings = check_request(request)
    for warning in findings.warnings:
        show(f"warning: {warning}")
    if errors := [*dependency_problems(options.dependency), *findings.errors]:
        raise ConfigError(errors)
    return request


def _job(request: Request, folder: Path, options: Options, slurm_dir: Path) -> Job:
    settings = request.config.launch
    return Job(
        name=request.config.run.name,
        run_dir=request.run_dir.root,
        submission=folder,
        working_directory=Path.cwd(),
        settings=settings,
        nodes=request.nodes,
        python=settings.python or sys.executable,
        slurm_dir=slurm_dir,
        dependency=options.dependency,
    )


def _queue(request: Request, folder: Path, command: list[str], show: Callable[[str], None]) -> str:
    """Write the submission's folder, queue the job, and record its number. A refused job leaves no folder."""
    make_run(request.run_dir)
    folder.mkdir()
    write_config(folder / CONFIG, request.config)
    submission = Submission(
        submitted=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        host=socket.gethostname(),
        command=tuple(command),
        nodes=request.nodes,
        workers_per_node=request.workers_per_node,
        git=_git_state(folder),
    )
    write_launch_file(folder / SUBMISSION, submission)
    try:
        job_id = submit(command)
    except UsageError:
        shutil.rmtree(folder)
        raise
    write_launch_file(folder / SUBMISSION, submission.model_copy(update={"job_id": job_id}))
    show(f"queued job {job_id}: {request.nodes} nodes, {request.world_size} ranks")
    show(f"run: {request.run_dir.root}")
    show(f"log: {request.run_dir.job_log(job_id)}")
    return job_id


def _git_state(folder: Path) -> GitState | None:
    """Return the commit of the source tree, or None outside of git. Local changes go to `git.diff` in the folder.

    Only its owner may read that file: a key may have been put into the source for a try.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git("diff", "HEAD") or ""
    replace_file(folder / "git.diff", changes, mode=0o600)
    return GitState(source=str(SOURCE), commit=commit.strip(), changed=bool(changes))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", str(SOURCE), *arguments),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
