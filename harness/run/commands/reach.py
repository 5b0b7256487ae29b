"""Holds commands against their run: steps and samples that a command names must be some that the run has.

A rollback walks over the steps that it skips. A slip in their numbers would have it walk for ever, or jump over all
that is left of the data, so both the giver of a command and the mailbox of the trainer ask here.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.batch_sizes import batch_sizes
from harness.config.schema import Config
from harness.plan.schedule import phase_schedules
from harness.run.commands.requests import AnyRequest, Evidence, Rollback
from harness.run.event_types import RolledBack
from harness.run.events import last_events
from harness.run.files import last_lines
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
    samples: int
    """Positions of the run's order up to the end of the plan, with all that is skipped so far."""

    @property
    def last(self) -> int:
        """The last step that was made or is planned."""
        return max(self.planned, self.made or 0)


def reach_of(run_dir: RunDir, config: Config) -> Reach:
    """Return the reach of a run, from its configuration and the ends of its records and events."""
    rolled_back = [event for event in last_events(run_dir.events) if isinstance(event, RolledBack)]
    records = (from_json_line(line) for line in last_lines(run_dir.metrics, _TAIL_BYTES))
    steps = [record.step for record in records if record is not None]
    steps += [event.from_step for event in rolled_back if event.from_step is not None]
    windows = [*config.data.skip_windows, *(rolled_back[-1].skip_windows if rolled_back else ())]
    schedules = phase_schedules(config)
    planned = sum(
        batch_sizes(phase).samples_in(schedule.train_steps)
        for phase, schedule in zip(config.phases, schedules, strict=True)
    )
    return Reach(
        made=max(steps, default=None),
        planned=schedules[-1].last_step,
        samples=planned + sum(stop - start for start, stop in windows),
    )


def rollback_problem(run_dir: RunDir, config: Config, request: AnyRequest) -> str | None:
    """Return why a trainer rejects a rollback that skips something; None for any other request.

    What else a run has not got is refused where it is looked for.
    """
    if not isinstance(request, Rollback) or (request.skip_steps is None and request.skip_samples is None):
        return None
    return problem_of(request, reach_of(run_dir, config))


def problem_of(request: AnyRequest, reach: Reach) -> str | None:
    """Return why a run cannot do what is asked of it, or None (pure).

    A rollback may skip further than training has come, because what is wrong with the data may go on; but it begins
    with a step that was made.
    """
    if isinstance(request, Evidence):
        return _not_made("steps", request.steps, request.steps[1], reach)
    if not isinstance(request, Rollback):
        return None
    if request.to_step is not None and request.to_step > (reach.last if reach.made is None else reach.made):
        return f"to_step is {request.to_step}; {_extent(reach)}"
    if request.skip_steps is not None:
        return _not_made("skip_steps", request.skip_steps, request.skip_steps[0], reach)
    if request.skip_samples is not None and request.skip_samples[1] > reach.samples:
        return (
            f"skip_samples is {list(request.skip_samples)}; the order of the run ends with position {reach.samples}, "
            "with the samples that are skipped so far"
        )
    return None


def _not_made(name: str, steps: tuple[int, int], needed: int, reach: Reach) -> str | None:
    """Return why the run has not got these steps, of which `needed` must have been made."""
    if steps[1] <= reach.last and (reach.made is None or needed <= reach.made):
        return None
    return f"{name} is {list(steps)}; these steps were not made: {_extent(reach)}"


def _extent(reach: Reach) -> str:
    made = "" if reach.made is None else f"the last one that was made is {reach.made}, "
    return f"{made}the last one of the plan is {reach.planned}"
