"""Every branch of the decision between two steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.config.schema import Config
from harness.plan.plan import make_plan
from harness.run.checkpoints.manifest import Parent
from harness.run.commands import requests
from harness.run.commands.command import Command
from harness.train.decide import MAX_FAILED_SAVES, Decision, Milestones, decide, decide_after_rollback
from harness.train.state import TrainState

MILESTONES = Milestones(last_step=100, save_every_steps=10, evaluate_every_steps=20)
QUIET = Milestones(last_step=100, save_every_steps=None, evaluate_every_steps=None)

SAVE, STOP, SAVE_AND_STOP, STOP_FOR_PERSON, EVIDENCE = (
    Command(request=request, source="alice", reason="a reason", id="1")
    for request in (
        requests.Save(),
        requests.Stop(),
        requests.SaveAndStop(),
        requests.StopForPerson(),
        requests.Evidence(steps=(1, 2)),
    )
)
SAID = "by alice: a reason"
DONE = "all steps are done"


def state(step: int, *, saved_at: int | None = None, num_failed_saves: int = 0) -> TrainState:
    saved = None if saved_at is None else Parent(step=saved_at, attempt=0)
    return TrainState(step=step, saved=saved, num_failed_saves=num_failed_saves)


CASES: dict[str, tuple[TrainState, list[Command], Decision]] = {
    "nothing is due": (state(7), [], Decision()),
    "a save is due": (state(10), [], Decision(save=True)),
    "a save and an evaluation are due": (state(20), [], Decision(save=True, evaluate=True)),
    "a save is due but was just loaded": (state(10, saved_at=10), [], Decision()),
    "an older checkpoint is no reason not to save": (state(10, saved_at=9), [], Decision(save=True)),
    "nothing is due before the first step": (state(0), [], Decision()),
    "save": (state(7), [SAVE], Decision(save=True)),
    "save before the first step": (state(0), [SAVE], Decision()),
    "save what is saved": (state(7, saved_at=7), [SAVE], Decision()),
    "stop": (state(7), [STOP], Decision(exit_code=77, reason=f"stop {SAID}")),
    "stop does not save what is due": (state(10), [STOP], Decision(exit_code=77, reason=f"stop {SAID}")),
    "save, then stop": (state(7), [SAVE, STOP], Decision(save=True, exit_code=77, reason=f"stop {SAID}")),
    "stop before the first step": (state(0), [STOP], Decision(exit_code=77, reason=f"stop {SAID}")),
    "stop for a person": (
        state(7),
        [STOP_FOR_PERSON, EVIDENCE],
        Decision(exit_code=76, reason=f"stop-for-person {SAID}"),
    ),
    "a person's stop wins over one for a person": (
        state(7),
        [STOP_FOR_PERSON, STOP],
        Decision(exit_code=77, reason=f"stop-for-person {SAID}; stop {SAID}"),
    ),
    "evidence decides nothing": (state(7), [EVIDENCE], Decision()),
    "save and stop": (state(7), [SAVE_AND_STOP], Decision(save=True, exit_code=75, reason=f"save-and-stop {SAID}")),
    "save and stop what is saved": (
        state(7, saved_at=7),
        [SAVE_AND_STOP],
        Decision(exit_code=75, reason=f"save-and-stop {SAID}"),
    ),
    "save and stop needs no evaluation": (
        state(20),
        [SAVE_AND_STOP],
        Decision(save=True, exit_code=75, reason=f"save-and-stop {SAID}"),
    ),
    "a person's stop wins": (
        state(7),
        [SAVE_AND_STOP, STOP],
        Decision(save=True, exit_code=77, reason=f"save-and-stop {SAID}; stop {SAID}"),
    ),
    "the end": (state(100), [], Decision(save=True, evaluate=True, exit_code=0, reason=DONE)),
    "the end, once more": (state(100, saved_at=100), [], Decision(evaluate=True, exit_code=0, reason=DONE)),
    "beyond the end": (state(101), [], Decision(save=True, evaluate=True, exit_code=0, reason=DONE)),
    "save and stop at the end": (
        state(100),
        [SAVE_AND_STOP],
        Decision(save=True, evaluate=True, exit_code=0, reason=DONE),
    ),
    "stop at the end": (state(100), [STOP], Decision(exit_code=77, reason=f"stop {SAID}")),
    "some saves failed": (state(7, num_failed_saves=MAX_FAILED_SAVES - 1), [], Decision()),
    "too many saves failed": (
        state(10, num_failed_saves=MAX_FAILED_SAVES),
        [],
        Decision(exit_code=76, reason="3 saves in a row failed"),
    ),
}


ROLLBACK = Command(request=requests.Rollback(to_step=1), source="alice", reason="a reason", id="1")


@pytest.mark.parametrize(
    ("commands", "before", "after", "expected"),
    [
        ([ROLLBACK], state(100), state(100), Decision(save=True, evaluate=True, exit_code=0, reason=DONE)),
        ([ROLLBACK, SAVE], state(7), state(7), Decision(save=True)),
        ([ROLLBACK], state(7), state(7), Decision()),
        ([ROLLBACK], state(100), replace(state(85), attempt=1), Decision()),
        (
            [ROLLBACK, SAVE_AND_STOP],
            state(100),
            replace(state(85), attempt=1),
            Decision(save=True, exit_code=75, reason=f"save-and-stop {SAID}"),
        ),
    ],
    ids=["refused at the end", "refused beside another command", "refused", "carried out", "at the end of the time"],
)
def test_behind_a_rollback_the_run_does_what_is_due(
    commands: list[Command], before: TrainState, after: TrainState, expected: Decision
) -> None:
    decision = decide(MILESTONES, before, commands)
    assert decision == Decision(rollback=ROLLBACK)
    assert decide_after_rollback(MILESTONES, decision, commands, before, after) == expected


def test_a_state_that_was_not_finite_goes_on_behind_its_rollback() -> None:
    decision = decide(MILESTONES, state(7), [ROLLBACK], finite=False)
    assert decide_after_rollback(MILESTONES, decision, [ROLLBACK], state(7), replace(state(5), attempt=1)) == Decision()


def test_a_refused_rollback_of_a_state_that_is_not_finite_leaves() -> None:
    decision = decide(MILESTONES, state(7), [ROLLBACK], finite=False)
    assert decision.rollback == ROLLBACK
    left = decide_after_rollback(MILESTONES, decision, [ROLLBACK], state(7), state(7))
    assert left == Decision(exit_code=76, reason="loss or gradient is not finite")


@pytest.mark.parametrize(("reached", "commands", "expected"), CASES.values(), ids=CASES)
def test_decision(reached: TrainState, commands: list[Command], expected: Decision) -> None:
    assert decide(MILESTONES, reached, commands) == expected


@pytest.mark.parametrize("commands", [[], [SAVE], [STOP], [SAVE_AND_STOP]])
@pytest.mark.parametrize("step", [7, 20, 100])
def test_what_is_not_finite_is_neither_saved_nor_evaluated(step: int, commands: list[Command]) -> None:
    expected = Decision(exit_code=76, reason="loss or gradient is not finite")
    assert decide(MILESTONES, state(step), commands, finite=False) == expected


def test_without_milestones_only_the_end_is_saved() -> None:
    decisions = [decide(QUIET, state(step), []) for step in range(101)]
    assert decisions[:100] == [Decision()] * 100
    assert decisions[100] == Decision(save=True, exit_code=0, reason=DONE)


def config(**sections: dict[str, Any]) -> Config:
    model = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "ffn_hidden_size": 8, "vocab_size": 8}
    phase = {"name": "main", "train_steps": 50, "seq_length": 8, "global_batch_size": 1, "blend": {"zh": 1}}
    values = {"run": {"name": "x"}, "model": model, "data": {"channels": {"zh": {"path": "zh"}}}, "phases": [phase]}
    return Config.model_validate({**values, "optimizer": {"learning_rate": 1e-3}, **sections})


def test_milestones_come_from_the_configuration() -> None:
    assert Milestones.of(config(), make_plan(config(), 1)) == Milestones(
        last_step=50, save_every_steps=None, evaluate_every_steps=None
    )
    stopping = config(
        run={"name": "x", "stop_at_step": 30}, checkpoint={"save_every_steps": 5}, evaluation={"every_steps": 7}
    )
    assert Milestones.of(stopping, make_plan(stopping, 1)) == Milestones(
        last_step=30, is_early=True, save_every_steps=5, evaluate_every_steps=7
    )
    late = config(run={"name": "x", "stop_at_step": 60})
    assert Milestones.of(late, make_plan(late, 1)).last_step == 50


def phased(stop_at_step: int | None = None) -> Config:
    """Three phases of 10 steps; the second has a layout of its own."""
    common = {"train_steps": 10, "seq_length": 8, "global_batch_size": 2, "blend": {"zh": 1}}
    own = {"parallel": {"tensor_model_parallel_size": 1, "recompute": "full"}}
    alike = {"parallel": {"micro_batch_size": 2}}
    phases = [{"name": "a", **common}, {"name": "b", **common, **own}, {"name": "c", **common, **alike}]
    return config(run={"name": "x", "stop_at_step": stop_at_step}, phases=phases, evaluation={"every_steps": 4})


def milestones_in(phase: int, stop_at_step: int | None = None) -> Milestones:
    made = phased(stop_at_step)
    return Milestones.of(made, make_plan(made, 1), phase)


def test_a_launch_ends_where_its_layout_does() -> None:
    found = [milestones_in(phase) for phase in range(3)]
    assert [(each.first_step, each.last_step, each.layout_ends) for each in found] == [
        (1, 10, True),
        (11, 20, True),
        (21, 30, False),
    ]
    assert found[0].borders == (10, 20)
    assert [found[1].has_layout_of(step) for step in (10, 11, 20, 21)] == [False, True, True, False]
    assert found[2].has_layout_of(31)


def test_phases_that_differ_in_the_micro_batch_share_a_launch() -> None:
    made = phased()
    second = made.phases[1].model_copy(update={"parallel": None})
    made = made.model_copy(update={"phases": (made.phases[0], second, made.phases[2])})
    found = [Milestones.of(made, make_plan(made, 1), phase) for phase in range(3)]
    assert {(each.first_step, each.last_step, each.layout_ends) for each in found} == {(1, 30, False)}


def test_a_border_is_saved_and_evaluated() -> None:
    made = phased()
    alike = tuple(phase.model_copy(update={"parallel": None}) for phase in made.phases)
    made = made.model_copy(update={"phases": alike})
    milestones = Milestones.of(made, make_plan(made, 1))
    assert decide(milestones, state(10), []) == Decision(evaluate=True, save=True)
    assert decide(milestones, state(11), []) == Decision()


def test_at_the_end_of_a_layout_the_run_leaves_to_be_continued() -> None:
    left = Decision(
        evaluate=True,
        save=True,
        exit_code=75,
        reason="the next phase is computed in another layout",
        in_another_layout=True,
    )
    assert decide(milestones_in(0), state(10), []) == left
    assert decide(milestones_in(1), state(20), []) == left
    assert decide(milestones_in(2), state(30), []).exit_code == 0


@pytest.mark.parametrize("command", [SAVE_AND_STOP, STOP])
def test_an_order_to_stop_wins_over_the_next_layout(command: Command) -> None:
    decision = decide(milestones_in(0), state(10), [command])
    assert decision.exit_code == (75 if command is SAVE_AND_STOP else 77)
    assert not decision.in_another_layout


def test_behind_a_rollback_into_another_layout_the_run_leaves() -> None:
    decision = decide(milestones_in(1), state(5), [])
    assert (decision.exit_code, decision.in_another_layout) == (75, True)


def test_a_run_that_is_to_stop_at_a_border_does() -> None:
    decision = decide(milestones_in(0, stop_at_step=10), state(10), [])
    assert (decision.exit_code, decision.reason) == (0, "run.stop_at_step is reached")
    assert milestones_in(0, stop_at_step=15).layout_ends
    assert not milestones_in(1, stop_at_step=15).layout_ends
