"""Orders from files and signals, the same on every rank at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch

from harness.data.files.arrivals import Arrivals, NewParts
from harness.parallel import collectives
from harness.parallel.ranks import Ranks
from harness.run.commands.command import Order, OrderKind
from harness.run.commands.mailbox import Mailbox
from harness.run.commands.os_signals import SignalFlags
from harness.run.fence import Fence
from harness.run.paths import RunDir
from harness.train.state import TrainState

_SAVING_KINDS = (OrderKind.SAVE, OrderKind.SAVE_AND_STOP, OrderKind.ROLLBACK)


class Orders:
    """Rank 0 looks into the mailbox; every rank may have received a signal; all ranks hear of both.

    News travel as flags in a reduction that the step makes anyway. Only when a flag is raised do the ranks exchange
    the orders themselves.
    """

    def __init__(
        self,
        run_dir: RunDir,
        ranks: Ranks,
        signals: SignalFlags,
        device: torch.device,
        *,
        fence: Fence | None,
        arrivals: Arrivals | None,
    ) -> None:
        self._mailbox = Mailbox(run_dir) if ranks.is_writer else None
        self._fence = fence
        self._arrivals = arrivals
        self._signals = signals
        self._device = device
        self._waiting: list[Order] = []
        self._unsaved: list[Order] = []
        """Carried out, but in no checkpoint yet."""

    def flags(self) -> tuple[bool, ...]:
        """What this rank wants the others to know: parts of the data arrived, an order waits, or a signal arrived."""
        if self._mailbox is not None:
            self._waiting += self._mailbox.poll()
        has_parts = self._arrivals is not None and self._arrivals.has_found()
        return (has_parts, bool(self._waiting), *self._signals.take_flags())

    def summed_flags(self) -> list[float]:
        """The flags of all ranks, outside a step. Every rank must call it."""
        flags = torch.tensor([float(flag) for flag in self.flags()], device=self._device)
        summed: list[float] = collectives.sum_over(flags).tolist()
        return summed

    def before_first_step(self) -> list[Order]:
        """The orders that came before training began. Every rank must call it."""
        return self.agree(self.summed_flags())

    def agree(self, summed_flags: Sequence[float]) -> list[Order]:
        """The orders behind the flags that the ranks raised, in the same order on every rank.

        Every rank must call it with the same sums. Costs nothing unless a flag is raised.
        """
        _, *of_orders = summed_flags
        if not any(of_orders):
            return []
        arrived = [count > 0 for count in of_orders[1:]]
        self._signals.forget(arrived)
        orders, self._waiting = self._waiting + self._signals.orders_from(arrived), []
        return collectives.from_rank_0(orders)

    def news(self, summed_flags: Sequence[float]) -> NewParts:
        """What arrived of the data, the same on every rank. Every rank must call it with the same sums."""
        if not summed_flags[0]:
            return NewParts()
        return collectives.from_rank_0(self._arrivals.take() if self._arrivals is not None else NewParts())

    def put_back(self, news: NewParts) -> None:
        """Have the parts found again later."""
        if self._arrivals is not None:
            self._arrivals.put_back(news.parts)

    def acknowledge(self, orders: Sequence[Order], state: TrainState) -> None:
        """Files the orders as done, with what came of them. To be called before every step.

        An order to roll back that no checkpoint knows of yet waits: after a crash it must be found again.

        Raises:
            RunTakenOverError: They are for another process, which has taken the run over.
        """
        answered = [*self._unsaved, *orders]
        self._unsaved = [order for order in answered if state.owes_rollback and _led_to(order, state)]
        answered = [order for order in answered if order not in self._unsaved]
        if self._mailbox is None or not answered:
            return
        if self._fence is not None:
            with suppress(OSError):  # without an answer they count as ours, as they did when they were carried out
                self._fence.require_held()
        for order in answered:
            outcome: dict[str, object] = {"step": state.step, "attempt": state.attempt}
            if order.kind in _SAVING_KINDS:
                outcome |= _what_was_saved(order, state)
            self._mailbox.acknowledge(order, outcome)


def _led_to(order: Order, state: TrainState) -> bool:
    """Whether an order is the last one by which the run was rolled back."""
    return order.kind is OrderKind.ROLLBACK and state.rollback is not None and state.rollback.order == order.fingerprint


def _what_was_saved(order: Order, state: TrainState) -> dict[str, object]:
    if state.is_saved or _led_to(order, state):
        return {"saved": True, "path": state.checkpoint, "seconds": state.save_seconds}
    problem = state.save_problem or "the last step was not finite"
    if state.step == 0:
        problem = "no step was done yet"
    return {"saved": False, "problem": problem, "last_checkpoint": state.checkpoint}
