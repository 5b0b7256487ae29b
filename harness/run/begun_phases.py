"""Holds the phases that have begun against the configuration that goes on: the learning rate never jumps unseen.

A schedule is a function of its whole phase. So a phase that is made longer, or gets another shape, also gives steps
that were trained long ago another learning rate, and the next step follows the new curve. A checkpoint knows the
learning rate of its last step. Where the configuration has the same there, whatever follows is as planned: a decay, a
border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.plan.schedule import PhaseSchedule, phase_number, phase_schedules
from harness.run.checkpoints.manifest import Manifest
from harness.run.launch_folder import changes
from harness.run.order_changes import history_from_json, phase_of
from harness.run.paths import RunDir

ROUNDING = 1e-6
"""Relative difference up to which two learning rates are the same."""
UNASKED = 0.01
"""Relative difference up to which a moved learning rate is told, and needs no confirmation."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A change of phases that have begun."""

    text: str
    """Learning rate before and after, for people."""
    problem: str | None
    """Reason not to go on, as a problem of the configuration; None if the change is small or confirmed."""


def require_planned(config: Config, manifest: Manifest, run_dir: RunDir) -> list[str]:
    """Return messages about changed phases that have begun already; none if nothing was changed.

    Args:
        config: The configuration to go on with.
        manifest: Of the state to go on from.
        run_dir: Its `config.yaml` is the configuration of the launch before.

    Raises:
        ConfigError: The learning rate jumps, or a phase that has begun has moved, and nobody has confirmed it.
    """
    moved = moved_phase(config, manifest, run_dir)
    if moved is None:
        return []
    if moved.problem is not None:
        raise ConfigError([moved.problem])
    return [moved.text]


def moved_phase(config: Config, manifest: Manifest, run_dir: RunDir) -> Moved | None:
    """Return how the phase under way was changed since the checkpoint; None if it goes on as it was planned."""
    step, phases = manifest.step, phase_schedules(config)
    now = phases[phase_number(phases, step + 1)]
    # Weights without an optimizer, of a converted or an averaged checkpoint, continue no schedule.
    if step == 0 or step >= phases[-1].last_step or not manifest.optimizer_norms:
        return None
    before = _schedules_before(run_dir)
    shift = _shift(now, step, _phase_of(manifest), before)
    planned = _planned_rate(now, step)
    if planned is None or _is_as_planned(planned, manifest, before):
        if shift is None:
            return None
        planned = manifest.learning_rate
    text = _text(now, manifest, planned, before) + (f"; {shift}" if shift else "")
    is_large = shift is not None or not _are_near(planned, manifest.learning_rate, UNASKED)
    if is_large and step > (now.schedule.changed_after_step or 0):
        return Moved(text=text, problem=f"{text}. {_advice(config, now, step, run_dir)}")
    return Moved(text=f"{text} (confirmed by {_confirmation(now)})" if is_large else text, problem=None)


def _planned_rate(now: PhaseSchedule, step: int) -> float | None:
    """Return the learning rate of the checkpoint's last step by the configuration; None if the next one starts anew."""
    if now.first_step <= step:
        return now.learning_rate(step)
    return now.entry_learning_rate if now.schedule.continues else None


def _is_as_planned(planned: float, manifest: Manifest, before: Sequence[PhaseSchedule]) -> bool:
    """Return whether the last step had the planned learning rate, perhaps times the factor of a rollback."""
    factors = [1.0] if manifest.adjustment is None else [1.0, manifest.adjustment.learning_rate_factor]
    if any(_are_near(factor * planned, manifest.learning_rate, ROUNDING) for factor in factors):
        return True
    # The factor of a rollback that ended with this step is not in the manifest.
    return manifest.rollback is not None and bool(before) and _are_near(_rate(before, manifest.step), planned, ROUNDING)


def _shift(now: PhaseSchedule, step: int, begun: int, before: Sequence[PhaseSchedule]) -> str | None:
    """Return how the begin of the phase under way has moved, in words."""
    if now.first_step > step:
        return None
    if begun < now.index:
        return f"phase {now.name} begins at step {now.first_step} by this configuration, and had not begun at {step}"
    if now.index < len(before) and (was := before[now.index].first_step) != now.first_step:
        return f"phase {now.name} began at step {was}, by this configuration at {now.first_step}"
    return None


def _text(now: PhaseSchedule, manifest: Manifest, planned: float, before: Sequence[PhaseSchedule]) -> str:
    step, last = manifest.step, manifest.learning_rate
    digits = _digits(planned, last)
    text = (
        f"phases.{now.index} ({now.name}): the learning rate of step {step + 1} is "
        f"{now.learning_rate(step + 1):.{digits}e}, that of the checkpoint's last step was {last:.{digits}e}"
    )
    if not _are_near(planned, last, ROUNDING):
        text += f" (by this configuration step {step} has {planned:.{digits}e})"
    if before and step < before[-1].last_step:
        text += f"; by the configuration before, step {step + 1} has {_rate(before, step + 1):.{digits}e}"
    return text


def _digits(one: float, other: float) -> int:
    """Return the number of decimals that tells two learning rates apart."""
    return next((number for number in range(1, 7) if f"{one:.{number}e}" != f"{other:.{number}e}"), 1)


def _advice(config: Config, now: PhaseSchedule, step: int, run_dir: RunDir) -> str:
    about = ("phases.", "optimizer.learning_rate")
    changed = [line for line in changes(run_dir, config) if line.startswith(about)]
    return (
        "Phases that have begun stay as they are: put back what was changed"
        + (f" ({'; '.join(changed)})" if changed else "")
        + ". To train longer, write a further phase behind them with `schedule: {continues: true}`, which goes on from "
        f"the last learning rate. If the change is meant, confirm it with {_confirmation(now)}: {step}"
    )


def _confirmation(phase: PhaseSchedule) -> str:
    return f"phases.{phase.index}.schedule.changed_after_step"


def _schedules_before(run_dir: RunDir) -> tuple[PhaseSchedule, ...]:
    """Return the schedules of the launch before; none if there was none, or it had other fields."""
    try:
        return phase_schedules(load_config(run_dir.config))
    except ConfigError:
        return ()


def _phase_of(manifest: Manifest) -> int:
    """Return the number of the phase that the checkpoint is in."""
    history = cast("list[dict[str, Any]]", manifest.cursor.get("history", []))  # early versions wrote none
    return phase_of(history_from_json(history))


def _rate(phases: Sequence[PhaseSchedule], step: int) -> float:
    return phases[phase_number(phases, step)].learning_rate(step)


def _are_near(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other))
