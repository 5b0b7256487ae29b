"""What a step leaves behind for people and for the watcher, and what is said at the end."""

from __future__ import annotations

import time

from harness.errors import EXIT_INTERNAL
from harness.metrics import names
from harness.metrics.record import StepRecord
from harness.parallel import device
from harness.plan.flops import peak_flops
from harness.train.decide import Decision
from harness.train.evaluate import Evaluation
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.step import StepResult, channel_losses


def record(run: Run, state: TrainState, result: StepResult, evaluation: Evaluation | None) -> None:
    """Records the step that led to `state`, with what an evaluation after it found."""
    if run.recorder is None:
        return
    run.recorder.step(
        StepRecord(
            attempt=state.attempt,
            step=state.step,
            time=time.time(),
            phase=run.phase.name,
            consumed_samples=state.cursor.consumed_samples,
            consumed_tokens=state.cursor.consumed_tokens,
            batch_hash=result.data.batch_hash,
            values=_losses(run, result) | _speed(run, result) | (evaluation.values if evaluation else {}),
        )
    )


def leave(run: Run, state: TrainState, decision: Decision) -> int:
    """Says why the run leaves, and returns the exit code."""
    assert decision.exit_code is not None, "the decision is to leave"
    exit_code = decision.exit_code
    if decision.save and not state.is_saved:
        exit_code = EXIT_INTERNAL
    if run.recorder is not None:
        run.recorder.event("exit", attempt=state.attempt, step=state.step, exit_code=exit_code, reason=decision.reason)
        run.recorder.message(f"leaving after step {state.step}: {decision.reason} (exit code {exit_code})")
    return exit_code


def _losses(run: Run, result: StepResult) -> dict[str, float]:
    values = {names.LM_LOSS: result.loss}
    for number, loss in channel_losses(result.totals).items():
        values[names.lm_loss_of(run.channels[number])] = loss
        values[names.tokens_of(run.channels[number])] = result.totals.num_tokens[number]
    values[names.GRAD_NORM] = result.grad_norm
    values[names.LEARNING_RATE] = result.learning_rate
    values[names.SKIPPED] = 0.0 if result.finite else 1.0
    epochs = run.data.stream.epochs(result.next_cursor)
    return values | {names.epochs_of(channel): passes for channel, passes in epochs.items()}


def _speed(run: Run, result: StepResult) -> dict[str, float]:
    tokens_per_s = run.phase.tokens_per_step / result.seconds / run.ranks.world.size
    flops = tokens_per_s * run.phase.flops_per_token
    values = {
        names.STEP_TIME_S: result.seconds,
        names.TOKENS_PER_SECOND_PER_GPU: tokens_per_s,
        names.TFLOPS_PER_GPU: flops / 1e12,
    }
    if peak := peak_flops(device.name(run.device)):
        values[names.MFU_PCT] = 100 * flops / peak
    if (memory_gib := device.peak_memory_gib(run.device)) is not None:
        values[names.MEMORY_GIB] = memory_gib
    return values
