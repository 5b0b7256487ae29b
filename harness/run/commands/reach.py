"""Holds commands against their run: steps and samples that a command names must be some that the run has.

A rollback walks over the steps that it skips. A slip in their numbers would have it walk for ever, or jump over all
that is left of the data, so both the giver of a command and the mailbox of the trainer ask here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.config.batch_sizes import batch_sizes
from harness.config.schema import Config
from harness.plan.schedule import phase_schedules
from harness.run.checkpoints.entries import Checkpoint, entries_in
from harness.run.commands.requests import AnyRequest, Evidence, Rollback
from harness.run.event_types import RolledBack
from harness.run.events import last_events
from harness.run.lines import last_lines
from harness.run.paths import RunDir
from harness.run.records import from_json_line

_TAIL_BYTES = 256 * 1024
"""End of the metrics in which the highest step is looked for: hundreds of steps."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Steps and samples that commands to a run may name."""

    made: int | None
    """The last step that was made, in whatever attempt; None where nothing is recorded."""
    planned: int
    """The last step of the plan."""
    ahead: int
    """Further steps whose samples may be skipped: as many as the watcher skips at once."""
    samples: int
    """Positions of the run's order up to the end of the plan, with all that is skipped so far."""

    @property
    def last(self) -> int:
        """The last step that was made, or may have been."""
        return self.planned if self.made is None else self.made


def reach_of(run_dir: RunDir, config: Config) -> Reach:
    """Return the reach of a run, from its configuration and the ends of its records and events."""
    rolled_back = [event for event in last_events(run_dir.events) if isinstance(event, RolledBack)]
    saved = (entry.step for entry in entries_in(run_dir.checkpoints) if isinstance(entry, Checkpoint))
    records = (from_json_line(line) for line in last_lines(run_dir.metrics, _TAIL_BYTES))
    steps = [record.step for record in records if record is not None]
    steps += [*saved, *(event.from_step for event in rolled_back if event.from_step is not None)]
    windows = [*config.data.skip_windows, *(rolled_back[-1].skip_windows if rolled_back else ())]
    schedules = phase_schedules(config)
    planned = sum(
        batch_sizes(phase).samples_in(schedule.train_steps)
        for phase, schedule in zip(config.phases, schedules, strict=True)
    )
    return Reach(
        made=max(steps, default=None),
        planned=schedules[-1].last_step,
        ahead=config.watch.most_skip_steps,
        samples=planned + sum(stop - start for start, stop in windows),
    )


def rollback_problem(run_dir: RunDir, config: Config, request: AnyRequest) -> str | None:
    """Return why a trainer rejects a rollback that skips something; None for any other request.

    Where nothing is recorded nothing was made. What else a run has not got is refused where it is looked for.
    """
    if not isinstance(request, Rollback) or (request.skip_steps is None and request.skip_samples is None):
        return None
    reach = reach_of(run_dir, config)
    return problem_of(request, replace(reach, made=reach.made or 0))


def problem_of(request: AnyRequest, reach: Reach) -> str | None:
    """Return why a run cannot do what is asked of it, or None (pure).

    A rollback may skip further than training has come, because what is wrong with the data may go on; but it begins
    with a step that was made.
    """
    if isinstance(request, Evidence):
        first, last = request.steps
        if last > reach.last:
            return f"steps is [{first}, {last}]; these steps were not made: {_extent(reach)}"
    if not isinstance(request, Rollback):
        return None
    if request.to_step is not None and request.to_step > reach.last:
        return f"to_step is {request.to_step}; {_extent(reach)}"
    if request.skip_steps is not None:
        first, last = request.skip_steps
        if first > reach.last or last > reach.last + reach.ahead:
            further = f"; at most {reach.ahead} more may be skipped (watch.most_skip_steps)"
            return f"skip_steps is [{first}, {last}]; these steps were not made: {_extent(reach)}{further}"
    if request.skip_samples is not None and request.skip_samples[1] > reach.samples:
        return (
            f"skip_samples is {list(request.skip_samples)}; the order of the run ends with position {reach.samples}, "
            "with the samples that are skipped so far"
        )
    return None


def _extent(reach: Reach) -> str:
    made = "" if reach.made is None else f"the last one that was made is {reach.made}, "
    return f"{made}the last one of the plan is {reach.planned}"
