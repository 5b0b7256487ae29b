"""The end of a launch of a job: its first cause, and what people are told of it."""

from __future__ import annotations

from pathlib import Path

from harness.alerts.alert import Alert, Kind
from harness.alerts.desk import AlertDesk
from harness.alerts.endings import ending_alert, ending_id
from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import EXIT_FINISHED, EXIT_INTERNAL, EXIT_REQUEUE, HarnessError, UsageError
from harness.launch.exits import first_cause
from harness.launch.requeue import Action, Taken, Verdict
from harness.parallel.environment import alert_addresses
from harness.run.launches import CONFIG, Failure, node_end_file, node_ends
from harness.run.paths import RunDir
from harness.say import complain
from harness.text import listed


def cause_of(launch: Path) -> Failure | None:
    """Return the first failure of a launch, from what the launchers of its nodes wrote down; None if none is known.

    A node whose launcher left no word is the cause if the others have only lost it.
    """
    ends = node_ends(launch)
    found = first_cause([end.failure for end in ends if end.failure is not None])
    silent = _silent_nodes(launch, len(ends))
    if silent and (found is None or found.return_code == EXIT_INTERNAL):
        text = f"{listed(silent)} left no word: the node, or what ran there, was killed or cut off"
        return Failure(text=text, return_code=EXIT_INTERNAL)
    return found


def _silent_nodes(launch: Path, num_ends: int) -> list[str]:
    """Return the nodes whose launchers did not write down their end; none if nobody did."""
    try:
        names = (launch / "nodes.txt").read_text().split()
    except OSError:
        return []
    if not 0 < num_ends < len(names):
        return []
    return [name for index, name in enumerate(names) if not node_end_file(launch, index).is_file()]


def alert_about(verdict: Verdict, exit_code: int, cause: Failure | None) -> Alert | None:
    """Return the alert about the end of a launch; None if the end was planned and the job comes back."""
    reason = f"{verdict.reason} (exit code {exit_code})"
    if cause is not None:
        reason += f"; first cause: {cause.text}"
    if verdict.action is Action.REQUEUE:
        was_meant = exit_code == EXIT_REQUEUE or verdict.reason == Taken.REQUEUED
        return None if was_meant else ending_alert(Kind.RESTART, reason)
    if verdict.alert:
        return ending_alert(Kind.FAILED, reason)
    return ending_alert(Kind.FINISHED if exit_code == EXIT_FINISHED else Kind.STOPPED, reason)


def tell(run_dir: RunDir, config: Config, told: Alert, launch: str) -> None:
    """Tell people, here and now: the watcher beside training is gone. What stands in the way changes no decision.

    What no place takes within a short time waits for the next watcher; `harness status` says that it waits.
    """
    try:
        desk = AlertDesk.of(run_dir, config, alert_addresses())
        desk.tell_of_end(told, ending_id(told.kind, launch))
        desk.tend(is_last=True)
    except (OSError, UsageError) as error:
        complain(f"people could not be told: {error}")


def tell_of_failed_start(run_dir: RunDir, submission: Path, reason: str) -> None:
    """Tell people that a job ended before it opened a launch."""
    try:
        config = load_config(submission / CONFIG)
    except HarnessError:  # without it nobody knows whom to tell
        return
    tell(run_dir, config, ending_alert(Kind.FAILED, f"the job could not begin: {reason}"), f"begin-{submission.name}")
