"""Every branch of the decision between two steps."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkpoint.manifest import Parent
from harness.config.schema import Config
from harness.plan.plan import make_plan
from harness.signals.order import Order, OrderKind
from harness.train.decide import MAX_FAILED_SAVES, Decision, Milestones, decide
from harness.train.state import TrainState

MILESTONES = Milestones(last_step=100, save_every_steps=10, evaluate_every_steps=20)
QUIET = Milestones(last_step=100, save_every_steps=None, evaluate_every_steps=None)

SAVE, STOP, SAVE_AND_STOP, STOP_FOR_PERSON, EVIDENCE = (
    Order(kind=kind, source="alice", reason="a reason", id="1")
    for kind in (
        OrderKind.SAVE,
        OrderKind.STOP,
        OrderKind.SAVE_AND_STOP,
        OrderKind.STOP_FOR_PERSON,
        OrderKind.EVIDENCE,
    )
)
SAID = "by alice: a reason"
DONE = "all steps are done"


def state(step: int, *, saved_at: int | None = None, num_failed_saves: int = 0) -> TrainState:
    saved = None if saved_at is None else Parent(step=saved_at, attempt=0)
    return TrainState(step=step, saved=saved, num_failed_saves=num_failed_saves)


CASES: dict[str, tuple[TrainState, list[Order], Decision]] = {
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


@pytest.mark.parametrize(("reached", "orders", "expected"), CASES.values(), ids=CASES)
def test_decision(reached: TrainState, orders: list[Order], expected: Decision) -> None:
    assert decide(MILESTONES, reached, orders) == expected


@pytest.mark.parametrize("orders", [[], [SAVE], [STOP], [SAVE_AND_STOP]])
@pytest.mark.parametrize("step", [7, 20, 100])
def test_what_is_not_finite_is_neither_saved_nor_evaluated(step: int, orders: list[Order]) -> None:
    expected = Decision(exit_code=76, reason="loss or gradient is not finite")
    assert decide(MILESTONES, state(step), orders, finite=False) == expected


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
