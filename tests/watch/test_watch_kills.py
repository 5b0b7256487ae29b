"""SIGKILL at any moment, a jumping clock, lines that are none, a second watcher: no command twice, none too many."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from kill_campaign import Trial, killed_watch, watching
from stand_in import ONSET, StandIn, run_dir_in

from harness.run.commands.kinds import CommandKind

DIRTY = range(ONSET, ONSET + 60)
ONE_STEP = range(ONSET, ONSET + 1)


def require_sane(run: StandIn, num_rollbacks: int) -> None:
    """Every command once, every event once, and as many rollbacks as there is reason for."""
    assert len(run.commands(CommandKind.ROLLBACK)) == num_rollbacks
    assert run.commands(CommandKind.STOP_FOR_PERSON) == []
    sources = [command.source for command in run.carried_out]
    assert len(sources) == len(set(sources))
    kinds = ("suspect", "spike", "benign", "attributed", "rollback-ordered", "non-finite")
    ids = [event["id"] for kind in kinds for event in run.events(kind)]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_orders_one_rollback(seed: int, tmp_path: Path) -> None:
    trial = Trial(seed=seed, num_kills=8, dirty=DIRTY, height=3.0, clock_jumps=seed == 2)
    run, exit_code = killed_watch(tmp_path, trial)
    assert exit_code == 0
    require_sane(run, 1)


@pytest.mark.slow
def test_killed_around_a_loss_that_is_not_finite_it_orders_one_rollback(tmp_path: Path) -> None:
    run, exit_code = killed_watch(tmp_path, Trial(seed=5, num_kills=5, dirty=ONE_STEP, height=math.nan))
    assert exit_code == 0
    require_sane(run, 1)


@pytest.mark.slow
def test_a_second_watcher_refuses_and_the_first_goes_on(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"poll_s": 0.01, "least_free_gib": 0})
    with watching(run) as first:
        while not (run.run_dir.watch / "heartbeat.json").exists():
            assert first.poll() is None
        with watching(run) as second:
            assert second.wait(60) == 64
        run.train(5)
        run.event("exit", exit_code=0, reason="all steps are done")
        assert first.wait(60) == 0
