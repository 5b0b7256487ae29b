"""The other side of the mailbox: giving an order to a run, and waiting for what comes of it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.run.commands.command import OrderKind, Request
from harness.run.lock import last_owner_of, owner_of
from harness.run.paths import RunDir

STEP_AT_MOST_S = 600.0
"""Where the lock cannot be seen (another host), a run whose metrics are older than this does not seem to train."""


def drop(run_dir: RunDir, kind: OrderKind, reason: str = "", request: Request | None = None) -> Path:
    """Puts an order into a run's mailbox and returns its file.

    Raises:
        UsageError: There is no such run, or its mailbox cannot be written.
    """
    if not run_dir.config.is_file():
        raise UsageError(
            f"{run_dir.root} is no run directory: there is no config.yaml in it; "
            "give the directory that training printed at its start, such as runs/NAME"
        )
    name = f"{kind}-{time.time_ns()}-{os.getpid()}"
    written, order = run_dir.signals / f"{name}.tmp", run_dir.signals / f"{name}.json"
    try:
        run_dir.signals.mkdir(exist_ok=True)
        written.write_text(
            json.dumps({"kind": kind, "reason": reason, **(request.to_json() if request else {})}) + "\n"
        )
        written.rename(order)
    except OSError as error:
        raise UsageError(
            f"cannot put an order into {run_dir.signals}: {error.strerror}; only the user who trains may give orders"
        ) from None
    return order


def wait_for(run_dir: RunDir, order: Path, *, timeout_s: float, poll_s: float = 0.2) -> dict[str, object]:
    """Waits until an order from `drop` was carried out, and returns what came of it.

    Raises:
        UsageError: The run rejected the order.
        HarnessError: The run could not save, as the order asks.
        HarnessError: Nobody trains there, or the run did not answer in time. The order stays where it is.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if (outcome := _outcome(run_dir, order)) is not None:
            return _require_saved(outcome)
        reason = run_dir.signals_rejected / f"{order.name}.reason"
        if reason.exists():
            raise UsageError(f"the run rejected the order {order.name}: {reason.read_text().strip()}")
        if not _seems_to_train(run_dir):
            if (outcome := _outcome(run_dir, order)) is not None:  # it acknowledged and left in between
                return _require_saved(outcome)
            raise HarnessError(
                f"nobody seems to train in {run_dir.root}: the order waits in {order} and takes effect when training "
                "is started; remove the file to withdraw it"
            )
        if time.monotonic() >= deadline:
            raise HarnessError(
                f"no answer from {run_dir.root} within {timeout_s:g} s: the order waits in {order} and takes effect at "
                "the end of the step; wait longer, or remove the file to withdraw it"
            )
        time.sleep(poll_s)


def _outcome(run_dir: RunDir, order: Path) -> dict[str, object] | None:
    """What is written in the order's acknowledgement; None while there is none, or none yet with its content."""
    for done in run_dir.signals_done.glob(f"{order.stem}-*.json"):
        try:
            outcome = json.loads(done.read_text())
        except (OSError, ValueError):
            continue
        if "source" in outcome:  # in the moment of acknowledgement the order itself lies there
            return dict(outcome)
    return None


def _require_saved(outcome: dict[str, object]) -> dict[str, object]:
    if outcome.get("saved") is False:
        raise HarnessError(
            f"the run has heard the order but saved nothing at step {outcome.get('step')}: {outcome.get('problem')}. "
            f"The last checkpoint is {outcome.get('last_checkpoint')}."
        )
    return outcome


def _seems_to_train(run_dir: RunDir) -> bool:
    """Whether the run's lock is held; or, where another host took it and may lock invisibly, the metrics are fresh."""
    if owner_of(run_dir) is not None:
        return True
    owner = last_owner_of(run_dir)
    if owner is None or owner.host == socket.gethostname():
        return False
    try:
        return time.time() - run_dir.metrics.stat().st_mtime < STEP_AT_MOST_S
    except OSError:
        return False
