"""Reports each step to people and to the watcher, and the reason for leaving."""

from __future__ import annotations

import time

from harness.data.order.cursor import ranges_of
from harness.errors import (
    EXIT_FINISHED,
    EXIT_INTERNAL,
    EXIT_NEEDS_PERSON,
    EXIT_REQUEUE,
    EXIT_STOPPED_BY_PERSON,
)
from harness.parallel import device
from harness.plan.flops import peak_flops
from harness.run import metric_names as names
from harness.run.event_types import Exit, ResumeSuspect
from harness.run.records import StepRecord
from harness.train.decide import Decision
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.steps.evaluate import Evaluation
from harness.train.steps.experts import expert_metrics, layer_loads
from harness.train.steps.pace import compare_ranks
from harness.train.steps.restored import resume_suspicion
from harness.train.steps.step import StepResult, channel_losses


def introduction(run: Run) -> list[str]:
    """Return the lines for people before the first step: the model, the layout, the data, and how to steer the run."""
    plan, phase, layout = run.plan, run.phase, run.phase.layout
    tokens = {each.name: sum(part.num_tokens for part in each.parts) for each in run.data.stream.channels}
    data = ", ".join(
        f"{name} {100 * float(share):.3g} % ({tokens[name]:,} tokens)" for name, share in phase.shares.items()
    )
    kept = ", ".join(
        f"{name} {held_out.num_documents:,} documents ({held_out.num_tokens:,} tokens)"
        for name, held_out in run.data.stream.held_out.items()
    )
    return [
        f"model: {plan.num_parameters:,} parameters, {run.config.model.num_layers} layers, "
        f"{run.config.precision.dtype}; {run.ranks.world.size} x {device.name(run.device)}: tensor {layout.tensor}, "
        f"pipeline {layout.pipeline}, data {layout.data}",
        f"data: {data}",
        *([f"held out, and not trained on: {kept}"] if kept else []),
        f"plan: {plan.train_steps:,} steps{_phases_text(run)} of {phase.global_batch_size:,} samples of "
        f"{phase.seq_length:,} tokens; "
        f"to save or stop in between: touch {run.run_dir.signals}/save (or stop, save-and-stop)",
    ]


def _phases_text(run: Run) -> str:
    """Return the position of the run among its phases in words; empty if there is only one phase."""
    phases, phase = run.plan.phases, run.phase
    if len(phases) == 1:
        return ""
    return f" in {len(phases)} phases, {phase.name} from {phase.first_step:,} to {phase.last_step:,}, now steps"


def record(run: Run, state: TrainState, result: StepResult, evaluation: Evaluation | None) -> None:
    """Record the step that led to `state`, with the result of an evaluation after it. Every rank must call it."""
    spread = compare_ranks(run, state, result.seconds)
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
            positions=ranges_of(result.data.positions),
            experts_by_layer=layer_loads(result.totals.experts),
            values=_losses(run, result)
            | _speed(run, result)
            | spread
            | run.in_flight.take_metrics()
            | (evaluation.values if evaluation else {}),
        )
    )
    if suspicion := resume_suspicion(state, phase_first_step=run.phase.first_step):
        event = ResumeSuspect(attempt=state.attempt, step=state.step, reason=suspicion)
        run.announce(f"warning: resume-suspect: {suspicion}", event)


def leave(run: Run, state: TrainState, decision: Decision) -> int:
    """Report why the run leaves, and return the exit code. When it returns everything is in the files.

    Raises:
        RunTakenOverError: Another process has taken the run over.
    """
    assert decision.exit_code is not None, "the decision is to leave"
    exit_code = decision.exit_code
    if decision.save and not state.is_saved:
        exit_code = EXIT_INTERNAL
    event = Exit(
        attempt=state.attempt,
        step=state.step,
        exit_code=exit_code,
        reason=decision.reason,
        next_phase=run.plan.phase_of(state.step + 1).name if decision.in_another_layout else None,
    )
    run.announce(_last_line(run, state, decision, exit_code), event)
    run.settle()
    return exit_code


_OUTCOMES = {
    EXIT_FINISHED: "finished",
    EXIT_REQUEUE: "stopped, start it again to go on",
    EXIT_STOPPED_BY_PERSON: "stopped, start it again to go on",
    EXIT_NEEDS_PERSON: "stopped, a person must look",
    EXIT_INTERNAL: "error: ended, but the last save failed",
}


def _last_line(run: Run, state: TrainState, decision: Decision, exit_code: int) -> str:
    if state.saved is None:
        kept = "no checkpoint was saved"
    elif state.is_saved:
        kept = f"saved in {state.checkpoint}"
    else:
        kept = f"saved up to step {state.saved.step} in {state.checkpoint}"
    loss = f", loss {state.last_losses[-1][1]:.4f}" if state.last_losses else ""
    return (
        f"{_OUTCOMES[exit_code]} (exit code {exit_code}): step {state.step} of {run.plan.train_steps}{loss}: "
        f"{decision.reason}; {kept}"
    )


def _losses(run: Run, result: StepResult) -> dict[str, float]:
    values = {names.LM_LOSS: result.loss}
    for number, loss in channel_losses(result.totals).items():
        values[names.lm_loss_of(run.channels[number])] = loss
        values[names.tokens_of(run.channels[number])] = result.totals.num_tokens[number]
    for number, module in enumerate(result.totals.further_tokens, start=1):
        if module.num_tokens:
            values[names.mtp_loss_of(number)] = module.loss_sum / module.num_tokens
    model = run.config.model
    values |= expert_metrics(
        result.totals.experts, topk=model.moe_router_topk, has_aux_loss=model.moe_aux_loss_coeff > 0
    )
    values[names.GRAD_NORM] = result.grad_norm
    values[names.LEARNING_RATE] = result.learning_rate
    values[names.SKIPPED] = 0.0 if result.finite else 1.0
    epochs = run.data.stream.epochs(result.next_cursor)
    return values | {names.epochs_of(channel): passes for channel, passes in epochs.items()}


def _speed(run: Run, result: StepResult) -> dict[str, float]:
    tokens = len(result.data.positions) * run.phase.seq_length
    tokens_per_s = tokens / result.seconds / run.ranks.world.size
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
