"""Orders with a name of their own: however often one is posted, it is carried out once.

Whoever gives an order by rule, and may be killed and started again at any moment, calls it after its cause.
"""

from __future__ import annotations

import json
from typing import Any

from harness.errors import UsageError
from harness.run.commands.command import OrderKind, Request
from harness.run.paths import RunDir


def post(run_dir: RunDir, name: str, kind: OrderKind, reason: str, request: Request | None = None) -> bool:
    """Puts the order `<name>.json` into the mailbox; False if it is there, or was carried out or rejected before.

    Raises:
        UsageError: The mailbox cannot be written.
    """
    if is_known(run_dir, name):
        return False
    fields: dict[str, Any] = {"kind": kind, "reason": reason, **(request.to_json() if request else {})}
    written, order = run_dir.signals / f"{name}.tmp", run_dir.signals / f"{name}.json"
    try:
        run_dir.signals.mkdir(exist_ok=True)
        written.write_text(json.dumps(fields) + "\n")
        written.rename(order)
    except OSError as error:
        raise UsageError(
            f"cannot put an order into {run_dir.signals}: {error.strerror}; only the user who trains may give orders"
        ) from None
    return True


def is_known(run_dir: RunDir, name: str) -> bool:
    """Whether an order of this name waits, was carried out, or was rejected."""
    # In the way an order moves: what leaves the first place before we look is in the second when we look there.
    return (run_dir.signals / f"{name}.json").exists() or is_answered(run_dir, name)


def is_answered(run_dir: RunDir, name: str) -> bool:
    """Whether an order of this name was carried out or rejected."""
    if (run_dir.signals_rejected / f"{name}.json").exists():
        return True
    return any(run_dir.signals_done.glob(f"{name}-*.json"))
