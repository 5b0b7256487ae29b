"""Moves a run from one phase to the next, between two steps and in the same processes.

A state between two steps belongs to the phase of the step that comes next: a checkpoint of the last step of a phase
begins the following one.
"""

from __future__ import annotations

from dataclasses import replace

from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.data.order.cursor import Cursor, Positions
from harness.optim.mcore import Optimizer
from harness.plan.plan import PhasePlan
from harness.run.event_types import PhaseBegun
from harness.train.components.mcore import Pipeline
from harness.train.decide import Milestones
from harness.train.run import Run
from harness.train.state import TrainState


def follow_phase(run: Run, state: TrainState) -> tuple[Run, TrainState]:
    """Return the run and the state in the phase of the next step, usually unchanged. Every rank must call it.

    The buffers get the phase's sequence length and number of channels, rotation and optimizer follow its settings, and
    its frozen parameters are frozen. If its layout needs other processes, only the state is changed: the run leaves,
    and the next launch opens in that phase.
    """
    phase = run.plan.phase_of(state.step + 1)
    if state.cursor.phase != phase.index:
        state = replace(state, cursor=state.cursor.begin_phase(phase.index))
    if phase.index == run.phase.index:
        return run, state
    _report_begun(run, state, phase)
    if run.milestones.has_layout_of(phase.first_step):
        run = in_same_processes(run, phase)
    return run, state


def in_same_processes(run: Run, phase: PhasePlan) -> Run:
    """Return the run with everything rebuilt that depends on the phase, for another phase of the same layout."""
    settings = in_phase(run.config, phase.index)
    apply_settings(run.pipeline, run.optimizer, settings)
    return replace(
        run,
        phase=phase,
        settings=settings,
        milestones=Milestones.of(run.config, run.plan, phase.index),
        pipeline=Pipeline(
            run.pipeline.chunks,
            run.ranks,
            run.config.model,
            num_channels=len(run.channels),
            micro_batch_size=phase.micro_batch_size,
            seq_length=phase.seq_length,
        ),
    )


def apply_settings(pipeline: Pipeline, optimizer: Optimizer, settings: Config) -> None:
    """Apply the settings of a phase to model and optimizer."""
    (phase,) = settings.phases
    for chunk in pipeline.chunks:
        chunk.module.rotations.follow(settings.model)
    optimizer.follow(settings.optimizer, phase.frozen_parameters)


def take(run: Run, cursor: Cursor, step: int) -> tuple[Positions, Cursor]:
    """Return the positions of the samples of a step that begins at a cursor, and the cursor of the next step."""
    positions, behind = run.data.stream.take(cursor)
    phase = run.plan.phase_of(step + 1)
    return positions, behind if behind.phase == phase.index else behind.begin_phase(phase.index)


def _report_begun(run: Run, state: TrainState, phase: PhasePlan) -> None:
    stays = run.milestones.has_layout_of(phase.first_step)
    begun = PhaseBegun(
        attempt=state.attempt,
        step=state.step,
        phase=phase.name,
        before=run.phase.name,
        seq_length=phase.seq_length,
        global_batch_size=phase.global_batch_size,
        shares={name: float(share) for name, share in phase.shares.items()},
        rotary_base=in_phase(run.config, phase.index).model.rotary_base,
        same_processes=stays,
    )
    run.announce(
        f"phase {phase.name} from step {state.step + 1} to {phase.last_step}: {phase.global_batch_size:,} samples of "
        f"{phase.seq_length:,} tokens" + ("" if stays else ", in a layout of its own"),
        begun,
    )
