"""The report for the person who must look at a run that the watcher has stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.run.event_types import AnyEvent, Attributed, Resumed, RollbackRefused, RolledBack, Seen
from harness.run.events import read_events
from harness.run.files import replace_file
from harness.run.paths import RunDir
from harness.watch.policy import Situation, Stop

_MOST_EVENTS = 40
_MOST_CHECKPOINTS = 10


def write_report(run_dir: RunDir, stop: Stop, now: Situation) -> Path:
    """Write `watch/report.md` in place of an older one, and return its path.

    Raises:
        OSError: From the disk.
    """
    replace_file(run_dir.watch_report, report(str(run_dir.root), stop, now, list(read_events(run_dir.events))))
    return run_dir.watch_report


def report(run: str, stop: Stop, now: Situation, events: Sequence[AnyEvent]) -> str:
    """Return the report as Markdown (pure)."""
    happened = [line for event in events if (line := _in_words(event)) is not None]
    clean = [each for each in now.checkpoints if each.health == "clean" and each.step < stop.start]
    blocks = [
        f"# {run} was stopped at step {now.step}: a person must look",
        f"{stop.reason}.",
        "## What is off now",
        _listed(
            f"loss of {each.channel} went {each.direction} at step {each.start}, at most {each.peak_z:+.1f} standard "
            f"deviations, {each.recent_z:+.1f} of late" + ("" if each.confirmed else " (seen once)")
            for each in now.episodes
        ),
        "## What happened",
        _listed(happened[-_MOST_EVENTS:]),
        "## What can be returned to",
        _listed(f"step {each.step}: {each.health}" for each in now.checkpoints[-_MOST_CHECKPOINTS:]),
        "## What to do",
        _advice(run, stop, now, max((each.step for each in clean), default=None)),
    ]
    return "\n\n".join(blocks) + "\n"


def _advice(run: str, stop: Stop, now: Situation, target: int | None) -> str:
    places = {each.start for each in now.rollbacks}
    lines = [f"Look at what the step was trained on: `harness data show {run} --step {stop.start}`."]
    if stop.start in now.dirty_starts:
        lines.append("Evidence points to documents: take them out of the channel, or skip more samples.")
    elif len(places) > 1 or len(now.rollbacks) > 1:
        lines.append(
            "It came again on other samples, and no evidence points to documents: suspect the learning rate, the "
            "precision, or the code and machines that were changed last."
        )
    else:
        lines.append("If it began with a change of the learning rate or of the code, undo that first.")
    if target is None:
        lines.append("No clean checkpoint is older than this: start anew, with `--resume never` in another directory.")
    else:
        last = max(now.step, stop.start)
        lines.append(
            f"Then return and go on: `harness train {run}/config.yaml --run-dir {run} --rollback-to {target} "
            f"--skip-steps {stop.start}:{last}`, with `--set optimizer.learning_rate=…` if that is to change."
        )
    return _listed(lines)


def _in_words(event: AnyEvent) -> str | None:
    """Return the line about an event, or None for events that do not explain the present state."""
    match event:
        case Seen(kind="spike"):
            moved = f"moved {event.direction} at step {event.start} ({event.height:+.3f} nats)"
            text = f"loss of {event.channel} {moved}"
        case Seen(kind="non-finite"):
            text = f"loss of {event.channel} was not finite"
        case Attributed():
            parts = {f"{each.channel}/{each.part}" for each in event.documents}
            text = event.reason + (f" ({', '.join(sorted(parts))})" if parts else "")
        case RolledBack():
            skipped = event.skip_steps and f", past the samples of steps {event.skip_steps[0]} to {event.skip_steps[1]}"
            text = f"rolled back from step {event.from_step}{skipped or ''}: {event.reason}"
        case RollbackRefused():
            text = f"the run did not roll back: {event.reason}"
        case Resumed():
            text = "resumed"
        case _:
            return None
    return f"step {event.step}, attempt {event.attempt}: {text}"


def _listed(lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "Nothing."
