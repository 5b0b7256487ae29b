"""Exit code and history → requeue or stop, as a table."""

from __future__ import annotations

import pytest

from harness.config.operation import LaunchConfig
from harness.launch.requeue import Action, Taken, decide_resume
from harness.run.launches import LaunchEnd

LIMITS = LaunchConfig(max_failures_without_progress=3, max_launches_without_progress=5)


def ends(*history: tuple[int | None, bool]) -> list[LaunchEnd]:
    return [LaunchEnd(exit_code=code, progressed=progressed) for code, progressed in history]


@pytest.mark.parametrize(
    ("code", "alert", "reason"),
    [
        (0, False, "finished"),
        (77, False, "stopped by a person"),
        (76, True, "stopped, a person must look at the run"),
        (64, True, "wrong usage or configuration"),
        (65, True, "bad data or checkpoint"),
    ],
)
@pytest.mark.parametrize("progressed", [False, True])
def test_final_exit_codes_stop_whatever_was_saved(code: int, alert: bool, reason: str, progressed: bool) -> None:
    verdict = decide_resume(ends((75, True), (code, progressed)), LIMITS)
    assert (verdict.action, verdict.alert, verdict.reason) == (Action.STOP, alert, reason)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (75, "stopped before the end, to be continued"),
        (70, "failed with an internal error"),
        (1, "failed with exit code 1"),
        (137, "killed by signal 9"),
        (None, "the job was killed or requeued from outside"),
    ],
)
def test_progress_is_always_requeued(code: int | None, cause: str) -> None:
    verdict = decide_resume(ends(*[(code, False)] * 9, (code, True)), LIMITS)
    assert (verdict.action, verdict.alert) == (Action.REQUEUE, False)
    assert verdict.reason == f"{cause}; it had saved something new"


@pytest.mark.parametrize("code", [70, 1, 137, 143])
def test_failures_without_progress_stop_at_the_limit(code: int) -> None:
    assert decide_resume(ends((code, False)), LIMITS).action is Action.REQUEUE
    assert decide_resume(ends(*[(code, False)] * 2), LIMITS).action is Action.REQUEUE
    verdict = decide_resume(ends(*[(code, False)] * 3), LIMITS)
    assert (verdict.action, verdict.alert) == (Action.STOP, True)
    assert verdict.reason.endswith(
        "nothing new was saved in 3 launches in a row, 3 of them failures (at most 3 failures)"
    )


@pytest.mark.parametrize("code", [75, None])
def test_being_cut_short_is_forgiven_more_often(code: int | None) -> None:
    assert decide_resume(ends(*[(code, False)] * 4), LIMITS).action is Action.REQUEUE
    verdict = decide_resume(ends(*[(code, False)] * 5), LIMITS)
    assert (verdict.action, verdict.alert) == (Action.STOP, True)
    assert verdict.reason.endswith("in 5 launches in a row, 0 of them failures (at most 5 launches)")


def test_progress_resets_the_count() -> None:
    history = ends((70, False), (70, False), (70, True), (70, False), (70, False))
    assert decide_resume(history, LIMITS).action is Action.REQUEUE


def test_a_preemption_in_between_does_not_hide_failures() -> None:
    history = ends((70, False), (None, False), (70, False), (75, False))
    verdict = decide_resume(history, LIMITS)
    assert verdict.action is Action.REQUEUE
    assert "4 launches in a row, 2 of them failures" in verdict.reason
    assert decide_resume([*history[:3], *ends((70, False))], LIMITS).action is Action.STOP


def test_the_first_launch_is_told_in_the_singular() -> None:
    verdict = decide_resume(ends((70, False)), LIMITS)
    assert verdict.reason == "failed with an internal error; nothing new was saved in 1 launch, 1 of them failures"


@pytest.mark.parametrize("code", [75, 70, 137, None])
def test_a_cancelled_job_does_not_come_back(code: int | None) -> None:
    verdict = decide_resume(ends((code, True)), LIMITS, taken=Taken.CANCELLED)
    assert (verdict.action, verdict.alert, verdict.reason) == (
        Action.STOP,
        False,
        "the job was cancelled, or preempted by Slurm",
    )


def test_a_job_that_slurm_starts_again_is_requeued() -> None:
    verdict = decide_resume(ends((143, False)), LIMITS, taken=Taken.REQUEUED)
    assert (verdict.action, verdict.alert, verdict.reason) == (
        Action.REQUEUE,
        False,
        "requeued by Slurm, or by a person",
    )


def test_a_cancelled_job_that_had_finished_has_finished() -> None:
    assert decide_resume(ends((0, True)), LIMITS, taken=Taken.CANCELLED).reason == "finished"


def test_nothing_can_be_decided_without_a_launch() -> None:
    with pytest.raises(AssertionError, match="a decision needs a launch that ended"):
        decide_resume([], LIMITS)
