"""`harness status`: state and progress of a run, from its files and, where they are not enough, from Slurm."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from harness.alerts.shown import alert_lines, alerts_shown
from harness.config.load import load_config
from harness.errors import ConfigError, UsageError
from harness.json_text import parse_json
from harness.launch.diagnosis import slow_computers
from harness.plan.layouts import phase_world_sizes
from harness.plan.plan import make_plan
from harness.run.event_types import AnyEvent
from harness.run.events import event_line, last_events
from harness.run.files import require_readable
from harness.run.heartbeats import active_beats, read_beats
from harness.run.held_out_events import PhaseLosses
from harness.run.launches import LaunchRecord
from harness.run.metric_names import LM_LOSS
from harness.run.paths import RunDir
from harness.run.watcher_presence import watcher_text
from harness.run_state.facts import gather
from harness.run_state.goodput import TimeSpent, sessions_of, time_spent
from harness.run_state.slurm_job import Ask, ask_slurm
from harness.run_state.state import RUNNING, Word, late_text, state_of
from harness.text import duration_text, moment_text

NUM_EVENTS = 5
_NUM_SLOW = 8
_NUM_ALERTS = 5
_LONG_S = 1000 * 365 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """State and progress of a run."""

    run: str
    state: str
    """A word of `harness.run_state.state.Word`."""
    reason: str | None
    """Reason for the state, if it is known."""
    since: float | None
    """Time at which the state began, in seconds since 1970, if it is known."""
    needs_person: bool
    """True if nothing gets better by itself."""
    cause: Mapping[str, Any] | None
    """The first failure of the newest launch, with the end of its rank's log."""
    job_id: str | None
    launch: int | None
    step: int | None
    train_steps: int | None
    step_age_s: float | None
    """Age of the last step, or of the launch if that is younger."""
    late: str | None
    """Says so if the last step is older than is usual for this run."""
    loss: float | None
    step_time_s: float | None
    tokens_per_second: float | None
    time_left_s: float | None
    slow: tuple[str, ...]
    """Ranks whose device is slow, with their hosts, the slowest first."""
    log: str | None
    held_out: str | None
    """The channels that had become worse at the end of the last phase, in words; None if that is not measured."""
    watcher: str | None
    """The watcher in words: its place, and the age of its last look."""
    alerts: Mapping[str, Any]
    """Alerts that are open, what waits to be delivered, and how deliveries go."""
    time: TimeSpent
    """The time of the run, and where it went."""
    events: tuple[Mapping[str, Any], ...]


def status_of(run_dir: RunDir, now: float | None = None, ask: Ask = ask_slurm) -> Status:
    """Return state and progress of the run. `ask` asks Slurm about a job.

    Raises:
        UsageError: There is no such run.
        OSError: Its events or metrics cannot be read.
    """
    now = time.time() if now is None else now
    facts = gather(run_dir, ask, now)
    if facts is None:
        raise UsageError(
            f"{run_dir.root} is not a run directory: nothing was launched there; give the directory that training "
            "printed at its start, such as runs/NAME"
        )
    require_readable(run_dir.events, run_dir.metrics)
    events = last_events(run_dir.events)
    state, records = state_of(facts), facts.records
    started, is_running = facts.started, state.word in RUNNING
    train_steps = _train_steps(run_dir, started)
    step_s = facts.usual_step_s
    last = records[-1] if records else None
    tokens = (last.consumed_tokens - records[-2].consumed_tokens) if last and len(records) > 1 else 0
    late = late_text(facts) if is_running and state.word is not Word.STARTING else None
    time_left_s = max(0, train_steps - last.step) * step_s if last and train_steps and step_s else None
    cause = started.ended.cause if started is not None and started.ended is not None else None
    return Status(
        run=str(run_dir.root),
        state=state.word,
        reason=state.reason,
        since=state.since,
        needs_person=state.needs_person,
        cause=None if cause is None else cause.model_dump(mode="json"),
        job_id=facts.newest.job_id,
        launch=started.number if started else None,
        step=last.step if last else None,
        train_steps=train_steps,
        step_age_s=facts.step_age_s,
        late=late,
        loss=last.values.get(LM_LOSS) if last else None,
        step_time_s=step_s,
        tokens_per_second=tokens / step_s if tokens > 0 and step_s else None,  # a rollback goes back
        time_left_s=None if late else time_left_s,
        slow=_slow(run_dir, started) if is_running else (),
        log=_log(run_dir, facts.newest),
        held_out=_held_out(events),
        watcher=watcher_text(run_dir, now, is_wanted=is_running),
        alerts=alerts_shown(run_dir),
        time=time_spent(sessions_of(run_dir, now, is_running=is_running)),
        events=tuple(parse_json(event_line(event, event.time)) for event in events[-NUM_EVENTS:]),
    )


def status_to_json(status: Status) -> dict[str, Any]:
    """Return the status for programs."""
    further = {"trained_s": status.time.trained_s, "goodput": status.time.goodput}
    fields = asdict(status)
    return fields | {"time": fields["time"] | further}


def status_text(status: Status) -> str:
    """Return the status as text for people."""
    fields: list[tuple[str, str | None]] = [
        ("run", status.run),
        ("state", _state_text(status)),
        ("cause", None if status.cause is None else status.cause["text"]),
        ("job", status.job_id),
        ("launch", None if status.launch is None else str(status.launch)),
        ("step", None if status.step is None else f"{status.step:,} of {status.train_steps or 0:,}"),
        ("loss", None if status.loss is None else f"{status.loss:.4f}"),
        ("last step", _last_step(status)),
        ("speed", _speed(status)),
        ("time left", None if status.time_left_s is None else _duration(status.time_left_s)),
        ("time", time_text(status.time)),
        ("slow", ", ".join(status.slow[:_NUM_SLOW]) + (" …" if len(status.slow) > _NUM_SLOW else "") or None),
        ("log", status.log),
        ("held out", status.held_out),
        ("watcher", status.watcher),
        *(("alert", text) for text in alert_lines(status.alerts, _NUM_ALERTS)),
    ]
    lines = [f"{name:<10} {value}" for name, value in fields if value is not None]
    lines += [f"{'event':<10} {_event_text(event)}" for event in status.events]
    if status.cause is not None and status.cause["last_lines"]:
        lines += [f"the end of {status.cause['log']}:", *(f"  {line}" for line in status.cause["last_lines"])]
    return "\n".join(lines)


def _state_text(status: Status) -> str:
    since = "" if status.since is None else f" since {moment_text(status.since)}"
    reason = f": {status.reason}" if status.reason else ""
    return f"{status.state}{since}{reason}" + (" (a person must look)" if status.needs_person else "")


def _last_step(status: Status) -> str | None:
    """Return how old the last step is, of a run that should make steps."""
    if status.step_age_s is None or status.state not in (Word.TRAINING, Word.EVALUATING, Word.SAVING):
        return None
    return status.late or f"{duration_text(status.step_age_s)} ago"


def _held_out(events: Sequence[AnyEvent]) -> str | None:
    """Return what the last comparison of held-out losses found, in words."""
    told = next((event for event in reversed(events) if isinstance(event, PhaseLosses)), None)
    if told is None:
        return None
    found = []
    for worse, rises, words in (
        (told.worse_than_base, told.since_base, "before the first step"),
        (told.worse_than_phase, told.since_phase, f"at the end of phase {told.before}"),
    ):
        if worse:
            found.append(f"worse than {words}: " + ", ".join(f"{name} {rises.get(name, 0.0):+.4f}" for name in worse))
    return f"end of phase {told.phase} (step {told.step:,}): " + ("; ".join(found) or "no channel became worse")


def _slow(run_dir: RunDir, started: LaunchRecord | None) -> tuple[str, ...]:
    """Return the ranks of the newest launch whose device is slow."""
    if started is None:
        return ()
    active = [beat for beat in active_beats(read_beats(run_dir)) if beat.time >= started.begun]
    return tuple(f"rank {beat.rank} on {beat.host}" for beat in slow_computers(active))


def _train_steps(run_dir: RunDir, started: LaunchRecord | None) -> int | None:
    world_size = None if started is None else started.world_size
    try:
        config = load_config(run_dir.config)
        steps = make_plan(config, phase_world_sizes(config, world_size)).train_steps if world_size else None
    except ConfigError:  # written by another version
        return None
    return steps if steps is None else min(steps, config.run.stop_at_step or steps)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds < _LONG_S else "more than a thousand years"


def _log(run_dir: RunDir, last: LaunchRecord) -> str | None:
    path = run_dir.job_log(str(last.job_id))
    return str(path) if path.exists() else None


def _speed(status: Status) -> str | None:
    if status.step_time_s is None or status.tokens_per_second is None:
        return None
    return f"{status.step_time_s:.2f} s a step, {status.tokens_per_second:,.0f} tokens/s"


def time_text(spent: TimeSpent) -> str | None:
    """Return where the time of a run went, in words; None for a run without time."""
    if spent.goodput is None:
        return None
    lost = {"waits": spent.waited_s, "starts": spent.started_s, "steps made again": spent.repeated_s}
    parts = [f"{duration_text(seconds)} {name}" for name, seconds in lost.items() if seconds >= 1]
    return f"{spent.goodput:.0%} of {duration_text(spent.total_s)} for steps that count" + (
        f"; {', '.join(parts)}" if parts else ""
    )


_NOT_SHOWN = ("time", "kind", "attempt", "stages")


def _event_text(event: Mapping[str, Any]) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("time", 0)))
    rest = ", ".join(f"{name} {value}" for name, value in event.items() if name not in _NOT_SHOWN)
    return f"{moment} {event.get('kind')}: {rest}"
