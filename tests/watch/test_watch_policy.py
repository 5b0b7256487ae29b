"""The policy as a table: situation in, action out."""

from dataclasses import replace

import pytest

from harness.config.operation import WatchConfig
from harness.watch.policy import (
    Action,
    Alert,
    AskEvidence,
    KeepTraining,
    KnownCheckpoint,
    PastRollback,
    Rollback,
    Situation,
    Stop,
    checkpoints_to_suspect,
    decide,
)
from harness.watch.situation import rollback_request
from harness.watch.verdict import Direction, Kind, OpenEpisode, Verdict

SETTINGS = WatchConfig(action="rollback")
START = 10_000


def verdict(kind: Kind, step: int = START, end: int | None = None) -> Verdict:
    return Verdict(
        kind=kind, channel="code", direction="up", step=step, start=step, end=end or step, z=20.0, height=0.4
    )


def episode(
    direction: Direction = "up", recent_z: float = 9.0, confirmed: bool = True, start: int = START
) -> OpenEpisode:
    return OpenEpisode(
        channel="code",
        direction=direction,
        confirmed=confirmed,
        start=start,
        end=start + 90,
        peak_z=2 * recent_z,
        recent_z=recent_z,
    )


CHECKPOINTS = tuple(KnownCheckpoint(step=step, health="clean") for step in range(500, START + 1, 500))
QUIET = Situation(step=START + 100, checkpoints=CHECKPOINTS)
LASTING = replace(QUIET, episodes=(episode(),))
BACK = Rollback(
    to_step=9500,
    skip_steps=(START - 50, START + 149),
    learning_rate_factor=1.0,
    reason="loss of code went up at step 10000 and has not come back",
    start=START,
)


def past(at_step: int, start: int = 3000, to_step: int | None = None) -> PastRollback:
    return PastRollback(at_step=at_step, start=start, to_step=at_step - 600 if to_step is None else to_step)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (QUIET, KeepTraining()),
        (replace(QUIET, verdicts=(verdict("suspect"),)), KeepTraining()),
        (replace(QUIET, verdicts=(verdict("benign"),)), KeepTraining()),
        (replace(QUIET, verdicts=(verdict("confirmed", end=START + 3),)), AskEvidence(START, START + 3)),
        (LASTING, BACK),
        (replace(LASTING, step=START + 99), KeepTraining()),
        (replace(LASTING, episodes=(episode(recent_z=3.9),)), KeepTraining()),
        (replace(LASTING, episodes=(episode(confirmed=False),)), KeepTraining()),
        (replace(LASTING, handled_starts=frozenset({START})), KeepTraining()),
        (
            replace(LASTING, episodes=(episode("down", recent_z=-9.0),)),
            replace(BACK, reason="loss of code went down at step 10000 and has not come back"),
        ),
        (replace(LASTING, episodes=(episode("down", recent_z=9.0),)), KeepTraining()),
        (
            replace(LASTING, checkpoints=(*CHECKPOINTS[:-2], KnownCheckpoint(step=9500, health="suspect"))),
            replace(BACK, to_step=9000),
        ),
        (
            replace(LASTING, checkpoints=(KnownCheckpoint(step=9950, health="clean"),)),
            Stop(f"{BACK.reason}; there is no clean checkpoint at or before step 9900", START),
        ),
        (replace(LASTING, rollbacks=(past(10_060, to_step=10_055),)), KeepTraining()),
        (replace(LASTING, rollbacks=(past(10_060, to_step=9000),)), BACK),
        (
            replace(LASTING, rollbacks=(past(500), past(2000), past(4000), past(6000))),
            Stop(f"{BACK.reason}; the budget of 3 rollbacks in 10000 steps is used up", START),
        ),
        (replace(LASTING, rollbacks=(past(20), past(50), past(4000))), BACK),
        (
            replace(LASTING, rollbacks=(past(9_900, start=9_800, to_step=9000),)),
            replace(BACK, skip_steps=(START - 50, START - 51 + 400), learning_rate_factor=0.7),
        ),
        (
            replace(
                LASTING,
                rollbacks=(past(9_900, start=9_800, to_step=9000), past(9_950, start=9_900, to_step=9000)),
                dirty_starts=frozenset({START}),
            ),
            replace(
                BACK,
                skip_steps=(START - 50, START - 51 + 500),
                reason="loss of code went up at step 10000, on dirty documents",
            ),
        ),
    ],
)
def test_decisions(situation: Situation, expected: Action) -> None:
    assert decide(situation, SETTINGS) == expected


def test_dirty_documents_are_reason_enough_without_waiting() -> None:
    situation = replace(LASTING, step=START + 3, dirty_starts=frozenset({START}))
    action = decide(situation, SETTINGS)
    assert isinstance(action, Rollback)
    assert action.reason == "loss of code went up at step 10000, on dirty documents"


def test_a_loss_that_is_not_finite_is_rolled_back_at_once() -> None:
    situation = replace(QUIET, step=START, verdicts=(verdict("non-finite"),))
    action = decide(situation, SETTINGS)
    assert isinstance(action, Rollback)
    assert (action.to_step, action.reason) == (9500, "loss of code is not finite at step 10000")


def test_a_rise_right_after_a_resume_goes_one_checkpoint_further_back() -> None:
    situation = replace(
        QUIET,
        step=9503,
        episodes=(episode(start=9502),),
        rollbacks=(past(10_100, start=START, to_step=9500),),
        resumed_after_step=9500,
    )
    action = decide(situation, SETTINGS)
    assert isinstance(action, Rollback)
    assert (action.to_step, action.reason) == (9000, "loss of code went up at step 9502, right after a resume")
    falling = replace(situation, episodes=(episode("down", recent_z=-9.0, start=9502),))
    assert decide(falling, SETTINGS) == KeepTraining()


def test_alert_mode_only_tells_what_it_would_do() -> None:
    assert decide(LASTING, WatchConfig()) == Alert(
        "loss of code went up at step 10000 and has not come back. With `watch.action: rollback` the watcher would "
        "return to step 9500 and skip the samples of steps 9950 to 10149.",
        START,
    )
    nowhere = replace(LASTING, checkpoints=())
    assert decide(nowhere, WatchConfig()) == Alert(
        "loss of code went up at step 10000 and has not come back; there is no clean checkpoint at or before step "
        "9900. With `watch.action: rollback` the watcher would stop the run for a person.",
        START,
    )


def test_drift_is_told() -> None:
    situation = replace(QUIET, verdicts=(verdict("drift"),))
    assert decide(situation, SETTINGS) == Alert("loss of code drifts up: +0.400 nats at step 10000.", START)


def test_skipped_samples_never_lie_before_the_checkpoint() -> None:
    settings = SETTINGS.model_copy(update={"rollback_margin_steps": 0, "skip_lead_steps": 2000})
    action = decide(LASTING, settings)
    assert isinstance(action, Rollback)
    assert (action.to_step, action.skip_steps[0]) == (10_000, 10_001)


def test_checkpoints_in_and_shortly_after_an_alarm_become_suspect() -> None:
    known = [KnownCheckpoint(step=step, health="clean") for step in (9500, 10_000, 10_100, 10_150, 10_500)]
    known.append(KnownCheckpoint(step=10_050, health="abandoned"))
    alarm = verdict("suspect", step=10_000, end=10_020)
    assert checkpoints_to_suspect(known, [alarm, verdict("drift", 9500)], SETTINGS) == (10_000, 10_100)


def test_a_place_that_comes_again_gets_the_betas_that_are_configured() -> None:
    settings = SETTINGS.model_copy(update={"repeat_learning_rate_factor": 1.0, "repeat_adam_betas": (0.9, 0.9)})
    again = replace(LASTING, rollbacks=(past(9_900, start=9_800, to_step=9000),))
    action = decide(again, settings)
    assert isinstance(action, Rollback)
    request = rollback_request(action, 500)
    assert (request.learning_rate_factor, request.adam_betas, request.for_steps) == (1.0, (0.9, 0.9), 500)
    first = decide(LASTING, settings)
    assert isinstance(first, Rollback)
    request = rollback_request(first, 500)
    assert (request.adam_betas, request.for_steps) == (None, None)


def test_what_is_not_finite_does_not_wait_for_the_cool_down() -> None:
    broken = Verdict(
        kind="non-finite", channel="total", direction="up", step=START, start=START, end=START, z=0.0, height=0.0
    )
    soon = replace(
        LASTING, step=START, verdicts=(broken,), episodes=(), rollbacks=(past(9_990, start=1, to_step=9_980),)
    )
    action = decide(soon, SETTINGS)
    assert isinstance(action, Rollback)
    assert action.reason == f"loss or gradient is not finite at step {START}"
