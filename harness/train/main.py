"""The story of a run: open it, then step, decide, record, save, until it ends or a command stops it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from harness.config.schema import Config
from harness.run.checkpoints.choice import Resume
from harness.run.heartbeats import Activity
from harness.run.paths import RunDir
from harness.train.commands.answers import answer
from harness.train.commands.rescue import await_rescue
from harness.train.commands.rollback import roll_back
from harness.train.decide import awaits_save, decide, decide_after_rollback
from harness.train.report import leave, record
from harness.train.run import Run
from harness.train.saving.background import advance, finish_save, save_or_begin
from harness.train.saving.keeping import keep_snapshot, remove_snapshots
from harness.train.saving.part_checks import await_sound_parts, hear_of_parts
from harness.train.start.opening import open_run
from harness.train.state import TrainState
from harness.train.steps.adoption import adopt, await_parts
from harness.train.steps.blame import blame
from harness.train.steps.evaluate import evaluate
from harness.train.steps.forgetting import compare_losses, measure_base
from harness.train.steps.phases import follow_phase
from harness.train.steps.step import take_step
from harness.train.world import World


def main(config: Config, run_dir: RunDir, resume: Resume, world: World | None = None) -> int:
    """Train as one rank of the world, and return the exit code."""
    with open_run(config, run_dir, resume, world or World.from_environment()) as (run, state), _lasting():
        return train(run, state)


@contextmanager
def _lasting() -> Iterator[None]:
    """Exclude all that is here from collections in the `with` block. Megatron collects at each save."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def train(run: Run, state: TrainState) -> int:
    """Train from the given state to the end. Every rank runs this, and every rank decides the same at every step."""
    commands = run.inbox.before_first_step()
    decision = decide(run.milestones, state, commands)
    while True:
        state = answer(run, state, commands)
        if decision.rollback is not None:
            before, state = state, roll_back(run, finish_save(run, state), decision.rollback)
            decision = decide_after_rollback(run.milestones, decision, commands, before, state)
        run, state = follow_phase(run, state)
        if decision.save:
            state = save_or_begin(run, state, now=awaits_save(commands) or decision.exit_code is not None)
        run.inbox.acknowledge(commands, state)
        if decision.exit_code is not None:
            state = finish_save(run, state)
            remove_snapshots(run, state)
            return leave(run, state, decision)

        state, commands = await_parts(run, state)
        commands = commands or await_sound_parts(run, state)
        if not commands:
            state, commands = measure_base(run, state)
        if commands:
            decision = decide(run.milestones, state, commands)
            continue
        result = take_step(run, state)
        state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
        state = adopt(run, advance(run, state), result.totals.flags)
        hear_of_parts(run, state, result.totals.flags)
        if not result.finite:
            blame(run, state, result)
        commands = run.inbox.agree(result.totals.flags)
        decision = decide(run.milestones, state, commands, finite=result.finite)
        evaluation = None
        if decision.evaluate:
            run.heartbeat.enter(Activity.EVALUATE, state.step)
            evaluation = evaluate(run.pipeline, run.held_out, run.ranks, run.phase.num_microbatches, run.inbox)
            commands += evaluation.commands
            decision = decide(run.milestones, state, commands)
        record(run, state, result, evaluation)
        state = compare_losses(run, state, evaluation)
        keep_snapshot(run, state, finite=result.finite)
        if not result.finite:
            decision, commands = await_rescue(run, state, commands)
