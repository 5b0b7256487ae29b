"""The steps of the batch script before and after training: `python -m harness.launch.job begin|end …`.

`begin RUN_DIR SUBMISSION` opens the folder of this start and prints its path. `end RUN_DIR LAUNCH EXIT_CODE STATE`
writes down how it ended, logs the decision, and prints the nodes that the job should not get again. It leaves with 75
if the job is to be requeued, otherwise with the launch's code.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.config.load import load_config
from harness.errors import (
    EXIT_FINISHED,
    EXIT_INTERNAL,
    EXIT_NEEDS_PERSON,
    EXIT_REQUEUE,
    HarnessError,
    RunInUseError,
    UsageError,
)
from harness.launch.ending import alert_about, cause_of, tell, tell_of_failed_start
from harness.launch.exits import AGREED_EXITS, EXPLAINED_EXITS
from harness.launch.requeue import QUIET_EXITS, Action, Taken, Verdict, decide_resume
from harness.parallel.environment import job_id, restart_count
from harness.run.event_types import LaunchEnded
from harness.run.events import append_event
from harness.run.launch_folder import open_launch
from harness.run.launch_requests import kill_reason
from harness.run.launches import (
    CONFIG,
    ENDED,
    LAUNCH,
    SUBMISSION,
    Failure,
    LaunchEnd,
    LaunchEnding,
    LaunchStart,
    NodeEnd,
    Submission,
    bad_nodes_in,
    history,
    newest_checkpoint,
    node_ends,
    read_launch_file,
    read_own_launch_file,
    write_launch_file,
)
from harness.run.lock import RunLock, ending_error, last_owner_of
from harness.run.paths import RunDir
from harness.say import complain, say

_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LOCK_PATIENCE_S = 120.0
"""Time for the workers of the previous start to die before the run counts as in use."""


def begin(run_dir: RunDir, submission: Path, *, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Open the folder of this start: the submission's own at first, the next one after a requeue.

    Raises:
        RunEndingError: What is left of the job's earlier start still holds the run; the job is to come back.
        RunInUseError: Another process trains in this run directory.
        UsageError: There is no such submission.
        HarnessError: The job was requeued from outside again and again, and nothing new was saved.
    """
    asked = read_launch_file(submission / SUBMISSION, Submission)
    if asked is None or asked.nodes is None or asked.workers_per_node is None:
        raise UsageError(f"there is no {SUBMISSION} in {submission}; submit the run with `harness launch CONFIG`")
    config = load_config(submission / CONFIG)
    job = str(job_id())
    earlier = history(run_dir, job)
    if earlier and (verdict := decide_resume(earlier, config.launch)).action is Action.STOP:
        _report(run_dir, verdict, EXIT_NEEDS_PERSON, None)
        raise HarnessError(
            f"the job was requeued from outside, but is not started again: {verdict.reason}; look at the run, then "
            "submit it again with `harness launch`"
        )
    num_in_vain = restart_count() - len(earlier)  # starts that did not even get a folder
    may_return = num_in_vain < config.launch.max_failures_without_progress
    with _locked(run_dir, job, sleep, may_return=may_return):
        for stale in run_dir.signals.glob("slurm-*.json"):  # commands for an earlier start
            stale.unlink(missing_ok=True)
        start = LaunchStart(
            job_id=job,
            submission=submission.name,
            world_size=asked.nodes * asked.workers_per_node,
            workers_per_node=asked.workers_per_node,
            newest_checkpoint=newest_checkpoint(run_dir),
        )
        prepared = None if (submission / LAUNCH).exists() else submission
        return open_launch(run_dir, config, start, prepared)


def end(run_dir: RunDir, launch: Path, srun_code: int, job_state: str) -> int:
    """Write down how a launch ended and what is decided; return the exit code for the batch script.

    `srun_code` is the highest exit code of all nodes, or 128 and a signal. `job_state` is the state of the job, its
    reason and the number of its restarts as Slurm has them, such as `RUNNING:None:0`.
    """
    config = load_config(launch / CONFIG)
    exit_code = agreed_code(node_ends(launch), srun_code)
    cause = cause_of(launch) if exit_code not in QUIET_EXITS else None
    ended = LaunchEnding(ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"), exit_code=exit_code, cause=cause)
    _write_ending(launch, ended)
    taken = taken_by(job_state, restart_count())
    verdict = decide_resume(_ends(run_dir, exit_code), config.launch, taken=taken)
    killed = kill_reason(launch)
    if killed is not None:
        verdict = replace(verdict, reason=f"killed because it hung ({killed}); {verdict.reason}")
    decided = {"action": verdict.action, "alert": verdict.alert, "reason": verdict.reason}
    _write_ending(launch, ended.model_copy(update=decided))
    _report(run_dir, verdict, exit_code, cause)
    told = alert_about(verdict, exit_code, None if killed is not None else cause)
    if told is not None:
        tell(run_dir, config, told, launch.name)
    if verdict.action is Action.REQUEUE and taken is None:
        return EXIT_REQUEUE
    return exit_code if exit_code != EXIT_REQUEUE else EXIT_NEEDS_PERSON


def _ends(run_dir: RunDir, exit_code: int) -> list[LaunchEnd]:
    """Return the ends of this job's launches; the last one ended just now, whatever its folder says."""
    known = history(run_dir, str(job_id()))
    return [*known[:-1], LaunchEnd(exit_code=exit_code, progressed=bool(known) and known[-1].progressed)]


def _write_ending(launch: Path, ended: LaunchEnding) -> None:
    """Write down how a launch ended. What stands in the way changes nothing of the decision."""
    try:
        write_launch_file(launch / ENDED, ended)
    except OSError as error:
        complain(f"{launch / ENDED} cannot be written: {error.strerror}")


def bad_nodes(launch: Path) -> list[str]:
    """Return the nodes that the job should not get again, as their check found them; none if it is switched off.

    It returns none either if these are more than half of the nodes: then the cause is common to them.
    """
    if not load_config(launch / CONFIG).launch.exclude_bad_nodes:
        return []
    found = [name for name in bad_nodes_in(launch) if _NODE_NAME.fullmatch(name)]
    start = read_own_launch_file(launch / LAUNCH, LaunchStart)
    world_size, per_node = (1, 1) if start is None else (start.world_size or 1, start.workers_per_node or 1)
    return found if 2 * len(found) <= world_size // per_node else []


def agreed_code(ends: Sequence[NodeEnd], srun_code: int) -> int:
    """Return the exit code of a launch, from the codes of its nodes and that of srun.

    The ranks agree on leaving, but nodes leave at slightly different moments, and srun kills the rest after a code that
    is not 0. So a code that only an agreement can explain counts for all. Next comes an error with a code of its own.
    """
    by_weight = (AGREED_EXITS, EXPLAINED_EXITS, (EXIT_INTERNAL,))
    return next((node.exit_code for kind in by_weight for node in ends if node.exit_code in kind), srun_code)


def main(arguments: Sequence[str]) -> int:
    """Run one command of the batch script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    opening = verbs.add_parser("begin")
    opening.add_argument("run_dir", type=Path)
    opening.add_argument("submission", type=Path)
    closing = verbs.add_parser("end")
    closing.add_argument("run_dir", type=Path)
    closing.add_argument("launch", type=Path)
    closing.add_argument("exit_code", type=int)
    closing.add_argument("job_state")
    given = parser.parse_args(arguments)
    try:
        if given.verb == "end":
            say(",".join(bad_nodes(given.launch)))
            return end(RunDir(given.run_dir), given.launch, given.exit_code, given.job_state)
        return _begin(RunDir(given.run_dir), given.submission)
    except HarnessError as error:
        complain(error)
        return error.exit_code


def _begin(run_dir: RunDir, submission: Path) -> int:
    """Make the folder of a start, print it, and return the exit code; alert people to what stands in the way."""
    try:
        say(begin(run_dir, submission))
    except HarnessError as error:
        complain(error)
        if error.exit_code != EXIT_REQUEUE:
            tell_of_failed_start(run_dir, submission, str(error))
        return error.exit_code
    except OSError as error:
        text = f"{error.filename or run_dir.root}: {error.strerror or error}"
        complain(text)
        tell_of_failed_start(run_dir, submission, text)
        return EXIT_INTERNAL
    return EXIT_FINISHED


def taken_by(job_state: str, restarts: int) -> Taken | None:
    """Return what becomes of the job if Slurm ends it for another reason than its time limit (pure).

    None if it does not, or did not answer. `restarts` is the number of restarts that led to this start: Slurm counts
    the next one as soon as it has decided to start the job again, and calls both a cancelled and a requeued job
    COMPLETING.
    """
    state, reason, counted = (job_state.split(":") + ["", ""])[:3]
    if state in ("RUNNING", "UNKNOWN") or reason == "TimeLimit":
        return None
    return Taken.REQUEUED if counted.isdecimal() and int(counted) > restarts else Taken.CANCELLED


@contextmanager
def _locked(run_dir: RunDir, job: str, sleep: Callable[[float], None], *, may_return: bool) -> Iterator[None]:
    """Hold the run's lock. Waits for workers of an earlier start that are still dying.

    Those of an earlier start of this job are worth another try (`may_return`): Slurm starts a job once at a time.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_S
    lock = RunLock(run_dir, job)
    while True:
        try:
            lock.acquire()
            break
        except RunInUseError:
            if time.monotonic() >= deadline:
                owner = last_owner_of(run_dir)
                if may_return and owner is not None and owner.job_id == job:
                    raise ending_error(run_dir, owner) from None
                raise
            sleep(2.0)
    try:
        yield
    finally:
        lock.release()


def _report(run_dir: RunDir, verdict: Verdict, exit_code: int, cause: Failure | None) -> None:
    """Write the decision to the batch log and, for the watcher, to the run's events."""
    say(f"{verdict.action}: {verdict.reason} (exit code {exit_code})", err=True)
    if cause is not None:
        log = f"; the end of {cause.log}:" if cause.log else ""
        say("\n".join([f"first cause: {cause.text}{log}", *(f"  {line}" for line in cause.last_lines)]), err=True)
    ended = LaunchEnded(
        job_id=job_id(),
        exit_code=exit_code,
        action=verdict.action,
        alert=verdict.alert,
        reason=verdict.reason,
        cause=None if cause is None else cause.text,
    )
    append_event(run_dir.events, ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
