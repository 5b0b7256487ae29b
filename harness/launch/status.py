"""`harness status`: state and progress of a run, from its files alone, so that it works on a login node."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any

from harness.config.load import load_config
from harness.errors import ConfigError, UsageError
from harness.json_text import parse_json
from harness.launch.diagnosis import slow_computers
from harness.launch.requeue import Action
from harness.plan.layouts import phase_world_sizes
from harness.plan.plan import make_plan
from harness.run.event_types import AnyEvent, Exit
from harness.run.events import event_line, last_events
from harness.run.files import require_readable
from harness.run.heartbeats import active_beats, read_beats
from harness.run.launches import LaunchRecord, launches
from harness.run.lines import last_lines
from harness.run.lock import owner_of
from harness.run.metric_names import LM_LOSS
from harness.run.paths import RunDir
from harness.run.records import StepRecord, from_json_line

NUM_EVENTS = 5
_NUM_SLOW = 8
_TAIL_BYTES = 256 * 1024
_LONG_S = 1000 * 365 * 86400.0
_EXIT_STATES = {
    0: "finished",
    75: "stopped, to be continued",
    76: "stopped, a person must look",
    77: "stopped by a person",
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """State and progress of a run."""

    run: str
    state: str
    reason: str | None
    """Reason for the state, if it is known."""
    job_id: str | None
    launch: int | None
    step: int | None
    train_steps: int | None
    loss: float | None
    step_time_s: float | None
    tokens_per_second: float | None
    time_left_s: float | None
    slow: tuple[str, ...]
    """Ranks whose device is slow, with their hosts, the slowest first."""
    log: str | None
    events: tuple[Mapping[str, Any], ...]


def status_of(run_dir: RunDir, now: float | None = None) -> Status:
    """Return state and progress of the run.

    Raises:
        UsageError: There is no such run.
        OSError: Its events or metrics cannot be read.
    """
    now = time.time() if now is None else now
    known = launches(run_dir)
    if not known:
        raise UsageError(
            f"{run_dir.root} is not a run directory: nothing was launched there; give the directory that training "
            "printed at its start, such as runs/NAME"
        )
    require_readable(run_dir.events, run_dir.metrics)
    events = last_events(run_dir.events)
    records = [record for line in last_lines(run_dir.metrics, _TAIL_BYTES) if (record := from_json_line(line))]
    state, reason = _state(run_dir, known, events, now)
    started = [record for record in known if record.launch is not None]
    train_steps = _train_steps(run_dir, started)
    step_s = _step_seconds(records)
    last = records[-1] if records else None
    tokens = (last.consumed_tokens - records[-2].consumed_tokens) if last and len(records) > 1 else 0
    return Status(
        run=str(run_dir.root),
        state=state,
        reason=reason,
        job_id=known[-1].job_id,
        launch=started[-1].number if started else None,
        step=last.step if last else None,
        train_steps=train_steps,
        loss=last.values.get(LM_LOSS) if last else None,
        step_time_s=step_s,
        tokens_per_second=tokens / step_s if tokens > 0 and step_s else None,  # a rollback goes back
        time_left_s=max(0, train_steps - last.step) * step_s if last and train_steps and step_s else None,
        slow=_slow(run_dir, started),
        log=_log(run_dir, known[-1]),
        events=tuple(parse_json(event_line(event, event.time)) for event in events[-NUM_EVENTS:]),
    )


def status_text(status: Status) -> str:
    """Return the status as text for people."""
    fields: list[tuple[str, str | None]] = [
        ("run", status.run),
        ("state", status.state + (f": {status.reason}" if status.reason else "")),
        ("job", status.job_id),
        ("launch", None if status.launch is None else str(status.launch)),
        ("step", None if status.step is None else f"{status.step:,} of {status.train_steps or 0:,}"),
        ("loss", None if status.loss is None else f"{status.loss:.4f}"),
        ("speed", _speed(status)),
        ("time left", None if status.time_left_s is None else _duration(status.time_left_s)),
        ("slow", ", ".join(status.slow[:_NUM_SLOW]) + (" …" if len(status.slow) > _NUM_SLOW else "") or None),
        ("log", status.log),
    ]
    lines = [f"{name:<10} {value}" for name, value in fields if value is not None]
    return "\n".join([*lines, *(f"{'event':<10} {_event_text(event)}" for event in status.events)])


def _state(
    run_dir: RunDir, known: Sequence[LaunchRecord], events: Sequence[AnyEvent], now: float
) -> tuple[str, str | None]:
    """Return the state and its reason."""
    last = known[-1]
    if (owner := owner_of(run_dir)) is not None:
        return "training", str(owner)
    if last.launch is None:
        return "queued", None
    if last.ended is not None:
        requeued = last.ended.action == Action.REQUEUE
        return ("requeued" if requeued else "stopped"), last.ended.reason
    exits = [event for event in events if isinstance(event, Exit) and event.time >= last.begun]
    if exits:
        return _EXIT_STATES.get(exits[-1].exit_code, "failed"), exits[-1].reason
    if any(beat.time >= last.begun and not beat.is_quiet(now) for beat in read_beats(run_dir)):
        return "training", None
    return "gone", "it was killed, or its node is: it left no word"


def _slow(run_dir: RunDir, started: Sequence[LaunchRecord]) -> tuple[str, ...]:
    """Return the ranks of the newest launch whose device is slow."""
    if not started:
        return ()
    active = [beat for beat in active_beats(read_beats(run_dir)) if beat.time >= started[-1].begun]
    return tuple(f"rank {beat.rank} on {beat.host}" for beat in slow_computers(active))


def _train_steps(run_dir: RunDir, started: Sequence[LaunchRecord]) -> int | None:
    world_size = started[-1].world_size if started else None
    try:
        config = load_config(run_dir.config)
        steps = make_plan(config, phase_world_sizes(config, world_size)).train_steps if world_size else None
    except ConfigError:  # written by another version
        return None
    return steps if steps is None else min(steps, config.run.stop_at_step or steps)


def _step_seconds(records: Sequence[StepRecord]) -> float | None:
    """Return the median time from one record to the next, that is of a step with everything that belongs to it.

    None without two records, or where a clock went back.
    """
    gaps = [
        later.time - earlier.time
        for earlier, later in zip(records, records[1:], strict=False)
        if (later.attempt, later.step) == (earlier.attempt, earlier.step + 1)
    ]
    return usual if gaps and (usual := median(gaps)) > 0 else None


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds < _LONG_S else "more than a thousand years"


def _log(run_dir: RunDir, last: LaunchRecord) -> str | None:
    path = run_dir.job_log(str(last.job_id))
    return str(path) if path.exists() else None


def _speed(status: Status) -> str | None:
    if status.step_time_s is None or status.tokens_per_second is None:
        return None
    return f"{status.step_time_s:.2f} s a step, {status.tokens_per_second:,.0f} tokens/s"


_NOT_SHOWN = ("time", "kind", "attempt", "stages")


def _event_text(event: Mapping[str, Any]) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("time", 0)))
    rest = ", ".join(f"{name} {value}" for name, value in event.items() if name not in _NOT_SHOWN)
    return f"{moment} {event.get('kind')}: {rest}"
