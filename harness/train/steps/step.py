"""One step: data, forward, backward, one reduction, and the update if everything is finite."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from harness.data.order.cursor import Cursor
from harness.data.stream import StepData
from harness.run.heartbeats import Activity
from harness.train.components.mcore import Totals
from harness.train.run import Run
from harness.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of a step. Equal on every rank, except for the time."""

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
        """Return whether loss and gradient were finite; if not, the weights were not touched."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    @property
    def next_cursor(self) -> Cursor:
        """The cursor behind this step's samples."""
        return self.data.next_cursor


def take_step(run: Run, state: TrainState) -> StepResult:
    """Train step `state.step + 1`. Every rank must call it."""
    started = time.perf_counter()
    phase = run.phase
    factor = state.adjustment.learning_rate_factor if state.adjustment else 1.0
    rate = factor * phase.learning_rate(state.step + 1)
    run.heartbeat.enter(Activity.DATA, state.step + 1)
    data = run.data.stream.step(state.cursor)
    run.heartbeat.enter(Activity.FORWARD_BACKWARD, state.step + 1)
    run.optimizer.zero_grad()
    num_samples = len(data.positions)
    sums = run.pipeline.forward_backward(
        data.micro_batches or (None,) * phase.num_microbatches_of(num_samples),
        expected_tokens=num_samples * phase.seq_length,
        flags=run.inbox.flags(),
    )
    # The only wait for the device in a step.
    totals, (grad_norm,) = run.pipeline.read(sums, run.optimizer.prepare(sums.gradient_scale))
    loss = mean_loss(totals)
    run.heartbeat.enter(Activity.OPTIMIZER, state.step + 1)
    if math.isfinite(loss) and math.isfinite(grad_norm):
        run.saver.before_update()
        run.optimizer.update(rate, state.adjustment.adam_betas if state.adjustment else None)
        run.pipeline.balance_experts(sums)
    return StepResult(
        totals=totals,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=rate,
        data=data,
        seconds=time.perf_counter() - started,
    )


def mean_loss(totals: Totals) -> float:
    """Return the token-weighted mean of the channels' losses.

    It is computed from the channels' losses as they are recorded, and rounded once. So a reader of the record gets
    exactly the same number from `math.fsum(loss * tokens) / math.fsum(tokens)`.
    """
    num_tokens = math.fsum(totals.num_tokens)
    if not num_tokens:
        return math.nan
    weighted = (loss * totals.num_tokens[channel] for channel, loss in channel_losses(totals).items())
    return math.fsum(weighted) / num_tokens


def channel_losses(totals: Totals) -> dict[int, float]:
    """Return the mean loss of every channel that had a token, by channel number, in nats."""
    pairs = enumerate(zip(totals.loss_sums, totals.num_tokens, strict=True))
    return {channel: loss_sum / num_tokens for channel, (loss_sum, num_tokens) in pairs if num_tokens}
