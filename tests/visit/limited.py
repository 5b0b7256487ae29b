"""Runs the parts of a visit one after another, each under its own limit; what one does is no concern of the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""
_FEWEST_S = 10.0
"""With less time left a part is not begun."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A command whose output goes into a file of its name."""

    name: str
    command: Sequence[str]
    limit_s: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a part ended: ok, failed, timed out, or not begun."""

    part: str
    outcome: str
    returncode: int | None
    seconds: float
    limit_s: float


def run_parts(
    parts: Sequence[Part], summary: Path, *, about: Mapping[str, Any], environment: Mapping[str, str], limit_s: float
) -> list[Outcome]:
    """Run the parts and return how each ended.

    After each one the file `summary` has it too, and what is said `about` all; the logs are beside it.
    """
    begun = time.monotonic()
    outcomes: list[Outcome] = []
    for part in parts:
        left = limit_s - (time.monotonic() - begun)
        outcomes.append(_run(part, summary.parent, environment, min(part.limit_s, left)))
        _write(summary, {**about, "parts": [asdict(outcome) for outcome in outcomes]})
        _show(outcomes[-1], summary.with_name(f"{part.name}.log"))
    return outcomes


def summary_text(outcomes: Sequence[Outcome]) -> str:
    """Return how each part ended, one line for each."""
    lines = [f"{'part':<20} {'outcome':<10} {'rc':>4} {'seconds':>8} {'limit':>6}"]
    for each in outcomes:
        code = "-" if each.returncode is None else str(each.returncode)
        lines.append(f"{each.part:<20} {each.outcome:<10} {code:>4} {each.seconds:>8.1f} {each.limit_s:>6.0f}")
    return "\n".join(lines)


def _run(part: Part, out: Path, environment: Mapping[str, str], limit_s: float) -> Outcome:
    if limit_s < min(_FEWEST_S, part.limit_s):
        return Outcome(part=part.name, outcome="not begun", returncode=None, seconds=0.0, limit_s=max(0.0, limit_s))
    begun = time.monotonic()
    with (out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(
            part.command, stdout=log, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            outcome = "failed" if code else "ok"
        except subprocess.TimeoutExpired:
            outcome = "timed out"
        finally:
            _end(process)
    seconds = time.monotonic() - begun
    return Outcome(
        part=part.name, outcome=outcome, returncode=process.returncode, seconds=round(seconds, 1), limit_s=limit_s
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue


def _show(outcome: Outcome, log: Path) -> None:
    sys.stdout.write(f"== {outcome.part}: {outcome.outcome} after {outcome.seconds:.0f} s\n")
    if log.is_file():
        sys.stdout.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:]))
    sys.stdout.flush()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write whole, so that a visit that is cut off leaves no half of it."""
    written = path.with_suffix(".tmp")
    written.write_text(json.dumps(content, indent=2) + "\n")
    written.replace(path)
