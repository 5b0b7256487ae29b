"""The end of a run as an alert: the same one, whether the job, the watcher or somebody else saw it first."""

from __future__ import annotations

from harness.alerts.alert import ENDED, ENDED_KINDS, Alert, Kind


def ending_alert(kind: Kind, reason: str | None) -> Alert:
    """Return the alert that a run has ended. All ends of a run have one key: what was told is not told again."""
    words = {
        Kind.FAILED: "the run has ended, and does not come back by itself",
        Kind.GONE: "the run is gone, and does not come back by itself",
        Kind.FINISHED: "the run has finished",
        Kind.STOPPED: "the run was stopped",
        Kind.RESTART: "the run failed, and its job comes back by itself",
    }
    text = words[kind] + (f": {reason}" if reason else "")
    return Alert(key=ENDED, kind=kind, text=text, lasts=kind in ENDED_KINDS)


def ending_id(kind: Kind, launch: str) -> str:
    """Return the id of an end: the job and a watcher may both see it, and the second one tells nothing."""
    return f"{'gone' if kind is Kind.GONE else 'ended'}-{launch}"
