"""One step: data, forward, backward, one reduction, and the update if everything is finite."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from harness.data.cursor import Cursor
from harness.data.stream import StepData
from harness.plan.schedule import learning_rate
from harness.train.mcore import Totals
from harness.train.run import Run
from harness.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did. Equal on every rank, but for the time."""

    totals: Totals
    loss: float
    """Mean over all tokens of the global batch, in nats."""
    grad_norm: float
    """L2 norm before clipping."""
    learning_rate: float
    data: StepData
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite; if not, the weights were not touched."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    @property
    def next_cursor(self) -> Cursor:
        """The cursor behind this step's samples."""
        return self.data.next_cursor


def take_step(run: Run, state: TrainState) -> StepResult:
    """Trains step `state.step + 1`. Every rank must call it."""
    started = time.perf_counter()
    phase = run.phase
    rate = learning_rate(
        run.config.phases[0].schedule, run.config.optimizer.learning_rate, state.step + 1, phase.train_steps
    )
    data = run.data.stream.step(state.cursor)
    run.optimizer.zero_grad()
    totals = run.pipeline.forward_backward(
        data.micro_batches or (None,) * phase.num_microbatches,
        expected_tokens=phase.tokens_per_step,
        flags=run.orders.flags(),
    )
    loss = mean_loss(totals)
    grad_norm = run.optimizer.prepare()
    if math.isfinite(loss) and math.isfinite(grad_norm):
        run.optimizer.update(rate)
    return StepResult(
        totals=totals,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=rate,
        data=data,
        seconds=time.perf_counter() - started,
    )


def mean_loss(totals: Totals) -> float:
    """The channels' sums over the channels' tokens: exactly the token-weighted mean of the channels' losses."""
    num_tokens = sum(totals.num_tokens)
    return sum(totals.loss_sums) / num_tokens if num_tokens else math.nan
