"""The phase in which a run goes on, by its files. The trainer, which verifies checkpoints, may find another one."""

from __future__ import annotations

from harness.plan.plan import PhasePlan, Plan
from harness.run.event_types import Exit
from harness.run.events import read_events
from harness.run.launches import newest_checkpoint
from harness.run.paths import RunDir


def phase_to_begin_with(run_dir: RunDir, plan: Plan, resume: str) -> PhasePlan:
    """Return the phase of the step after the newest checkpoint; the first phase if the run begins anew."""
    return plan.phase_of(1 if resume == "never" else newest_checkpoint(run_dir).step + 1)


def size_of_events(run_dir: RunDir) -> int:
    """Return the size of the run's event file in bytes."""
    return run_dir.events.stat().st_size if run_dir.events.exists() else 0


def wanted_phase(run_dir: RunDir, plan: Plan, after_bytes: int) -> PhasePlan | None:
    """Return the phase for which the trainer left because it needs other processes; None if it left for another reason.

    The events of the launch begin at byte `after_bytes` of the file.
    """
    exits = [event for event in read_events(run_dir.events, after_bytes=after_bytes) if isinstance(event, Exit)]
    name = exits[-1].next_phase if exits else None
    return next((phase for phase in plan.phases if phase.name == name), None)
