"""The command with which a person begins who was told of a thing."""

from __future__ import annotations

import shlex

from harness.alerts.alert import Kind
from harness.run.paths import RunDir

_COMMANDS = {
    Kind.HUNG: "harness diagnose {run} --stacks",
    Kind.STALLED: "harness diagnose {run}",
    Kind.KILLED: "harness diagnose {run}",
    Kind.SAVE_FAILED: "df -h {run}",
    Kind.DISK: "df -h {run}",
    Kind.SPIKE: "harness data show {run} --step {step}",
    Kind.ATTRIBUTED: "harness data show {run} --step {step}",
    Kind.DATA: "harness data ledger {run} --parts",
}
_OTHERWISE = "harness status {run}"


def look_at(kind: Kind, run_dir: RunDir, step: int | None = None) -> str:
    """Return the command with which to begin, for the shell."""
    run = shlex.quote(str(run_dir.root.absolute()))
    command = _COMMANDS.get(kind, _OTHERWISE)
    return (_OTHERWISE if step is None and "{step}" in command else command).format(run=run, step=step)
