"""What to do between two steps: one pure function of the state, the orders and the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.schema import Config
from harness.errors import (
    EXIT_FINISHED,
    EXIT_NEEDS_PERSON,
    EXIT_REQUEUE,
    EXIT_STOPPED_BY_PERSON,
)
from harness.signals.order import PATIENT_KINDS, Order, OrderKind
from harness.train.state import TrainState

MAX_FAILED_SAVES = 3
"""Saves that may fail in a row before a person has to look."""


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """The steps at which something is due without being ordered."""

    last_step: int
    """Where this launch ends by itself."""
    is_early: bool = False
    """Whether that is before the end of the run (`run.stop_at_step`)."""
    save_every_steps: int | None
    evaluate_every_steps: int | None

    @staticmethod
    def of(config: Config, train_steps: int) -> Milestones:
        """The milestones of a configuration whose phases have `train_steps` steps."""
        return Milestones(
            last_step=min(train_steps, config.run.stop_at_step or train_steps),
            is_early=(config.run.stop_at_step or train_steps) < train_steps,
            save_every_steps=config.checkpoint.save_every_steps,
            evaluate_every_steps=config.evaluation.every_steps,
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What happens before the next step, in this order: evaluate, roll back or save, leave."""

    evaluate: bool = False
    save: bool = False
    exit_code: int | None = None
    """None: go on."""
    reason: str = ""
    """Why the run leaves."""
    rollback: Order | None = None
    """An order to return to an earlier checkpoint. Nothing else happens then, unless it is refused."""


def decide(milestones: Milestones, state: TrainState, orders: Sequence[Order], *, finite: bool = True) -> Decision:
    """What to do with a state that a step has just reached (or that was just restored).

    A state that is not finite is never saved or evaluated: it is rolled back if that is ordered, and else waits for a
    person. An order to stop wins over one to save and stop, because only a person gives it.

    Args:
        milestones: When something is due.
        state: The run as it is.
        orders: What was ordered since the last decision.
        finite: Whether loss and gradient of the last step were finite.
    """
    if not finite:
        return _decide_not_finite(orders)
    kinds = {order.kind for order in orders}
    finished = state.step >= milestones.last_step
    save_ordered = bool(kinds & {OrderKind.SAVE, OrderKind.SAVE_AND_STOP})
    due = finished or _is_due(state.step, milestones.save_every_steps)
    save = (save_ordered or due) and not state.is_saved and state.step > 0
    evaluate = milestones.evaluate_every_steps is not None and (
        finished or _is_due(state.step, milestones.evaluate_every_steps)
    )
    if OrderKind.STOP in kinds:
        return Decision(save=save_ordered and save, exit_code=EXIT_STOPPED_BY_PERSON, reason=_why(orders))
    if OrderKind.STOP_FOR_PERSON in kinds:
        return Decision(save=save_ordered and save, exit_code=EXIT_NEEDS_PERSON, reason=_why(orders))
    rollbacks = [order for order in orders if order.kind is OrderKind.ROLLBACK]
    if rollbacks:
        return Decision(rollback=rollbacks[-1])
    if finished:
        reason = "run.stop_at_step is reached" if milestones.is_early else "all steps are done"
        return Decision(evaluate=evaluate, save=save, exit_code=EXIT_FINISHED, reason=reason)
    if OrderKind.SAVE_AND_STOP in kinds:
        return Decision(save=save, exit_code=EXIT_REQUEUE, reason=_why(orders))
    if state.num_failed_saves >= MAX_FAILED_SAVES:
        return Decision(exit_code=EXIT_NEEDS_PERSON, reason=f"{state.num_failed_saves} saves in a row failed")
    return Decision(evaluate=evaluate, save=save)


def _decide_not_finite(orders: Sequence[Order]) -> Decision:
    stops = [order for order in orders if order.kind is OrderKind.STOP_FOR_PERSON]
    rollbacks = [order for order in orders if order.kind is OrderKind.ROLLBACK]
    why = "loss or gradient is not finite"
    return Decision(
        exit_code=EXIT_NEEDS_PERSON,
        reason=f"{why}; {_why(stops)}" if stops else why,
        rollback=rollbacks[-1] if rollbacks and not any(order.kind is OrderKind.STOP for order in orders) else None,
    )


def _is_due(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step > 0 and step % every_steps == 0


def _why(orders: Sequence[Order]) -> str:
    stopping = [order for order in orders if order.kind not in PATIENT_KINDS]
    return "; ".join(map(_told, stopping))


def _told(order: Order) -> str:
    """Kind, source and reason of an order, nothing twice: `stop by x.json: maintenance`, `save-and-stop by SIGTERM`."""
    source = "" if order.source == order.kind else f" by {order.source}"
    reason = f": {order.reason}" if order.reason and order.source not in order.reason else ""
    return f"{order.kind}{source}{reason}"
