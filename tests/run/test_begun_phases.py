"""A changed plan under way: which changes move the learning rate of a phase that has begun, and what is asked then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import sample_manifest

from harness.config.load import dump_config
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.plan.schedule import phase_number, phase_schedules
from harness.run.begun_phases import moved_phase, require_planned
from harness.run.checkpoints.manifest import Adjustment, Manifest, RollbackRecord
from harness.run.order_changes import PhaseBegun
from harness.run.paths import RunDir

MAIN: dict[str, Any] = {"name": "main", "train_steps": 10, "seq_length": 8, "global_batch_size": 4, "blend": {"c": 1}}
LATER: dict[str, Any] = MAIN | {"name": "later", "train_steps": 20, "schedule": {"warmup_steps": 4}}
STEADY = {"schedule": {"style": "constant"}}


def config_of(*phases: dict[str, Any], rate: float = 1e-3) -> Config:
    model = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "ffn_hidden_size": 16, "vocab_size": 64}
    return Config.model_validate(
        {
            "run": {"name": "r"},
            "model": model,
            "data": {"channels": {"c": {"path": "c"}}},
            "phases": list(phases),
            "optimizer": {"learning_rate": rate},
        }
    )


def saved(config: Config, step: int, factor: float = 1.0, **changes: Any) -> Manifest:
    """The manifest of a checkpoint that was trained with a configuration up to a step."""
    phases = phase_schedules(config)
    rate = factor * phases[phase_number(phases, step)].learning_rate(step)
    begun = phase_number(phases, step + 1)
    history = [PhaseBegun(position=4, phase=begun, consumed_samples=4).to_json()] if begun else []
    return sample_manifest(step, learning_rate=rate, cursor={"history": history}, **changes)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def problem(run_dir: RunDir, before: Config, step: int, after: Config, **changes: Any) -> str | None:
    run_dir.config.write_text(dump_config(before))
    moved = moved_phase(after, saved(before, step, **changes), run_dir)
    return None if moved is None else moved.problem


@pytest.mark.parametrize("step", [3, 9])
@pytest.mark.parametrize(
    ("change", "rate"),
    [
        ({"train_steps": 20}, 1e-3),
        ({"train_steps": None, "train_tokens": 20 * 32}, 1e-3),
        ({"schedule": {"style": "wsd"}}, 1e-3),
        ({"schedule": {"style": "linear", "min_learning_rate_share": 0.0}}, 1e-3),
        ({"schedule": {"warmup_steps": 10}}, 1e-3),
        ({"schedule": {"min_learning_rate_share": 0.5}}, 1e-3),
        ({"optimizer": {"learning_rate": 2e-3}}, 1e-3),
        ({}, 1e-2),
        ({"train_steps": None, "train_tokens": 400, "global_batch_size": 8}, 1e-3),
        (
            {
                "train_steps": None,
                "train_tokens": 320,
                "batch_ramp_up": {"start": 2, "increment": 2, "ramp_up_samples": 20},
            },
            1e-3,
        ),
    ],
)
def test_a_change_that_moves_the_rate_needs_a_confirmation(
    run_dir: RunDir, change: dict[str, Any], rate: float, step: int
) -> None:
    before, after = config_of(MAIN), config_of(MAIN | change, rate=rate)
    text = problem(run_dir, before, step, after)
    if step >= phase_schedules(after)[-1].last_step:
        assert text is None, "nothing is left to train"
        return
    assert text is not None
    assert f"the learning rate of step {step + 1} is" in text
    values = after.model_dump(mode="json")
    values["phases"][0]["schedule"]["changed_after_step"] = step
    moved = moved_phase(Config.model_validate(values), saved(before, step), run_dir)
    assert moved is not None
    assert moved.problem is None
    assert moved.text.endswith("(confirmed by phases.0.schedule.changed_after_step)")


def test_the_whole_text(run_dir: RunDir) -> None:
    before, after = config_of(MAIN), config_of(MAIN | {"train_steps": 20})
    run_dir.config.write_text(dump_config(before))
    with pytest.raises(ConfigError) as caught:
        require_planned(after, saved(before, 5), run_dir)
    assert caught.value.problems == [
        "phases.0 (main): the learning rate of step 6 is 8.1e-04, that of the checkpoint's last step was 5.5e-04 (by "
        "this configuration step 5 has 8.7e-04); by the configuration before, step 6 has 4.1e-04. Phases that have "
        "begun stay as they are: put back what was changed (phases.0.train_steps: 10, now 20). To train longer, write "
        "a further phase behind them with `schedule: {continues: true}`, which goes on from the last learning rate. If "
        "the change is meant, confirm it with phases.0.schedule.changed_after_step: 5"
    ]


def test_what_was_confirmed_holds_for_earlier_checkpoints_and_for_no_later_change(run_dir: RunDir) -> None:
    before, after = config_of(MAIN), config_of(MAIN | {"train_steps": 20, "schedule": {"changed_after_step": 5}})
    assert problem(run_dir, before, 3, after) is None
    assert problem(run_dir, before, 6, after) is not None
    assert problem(run_dir, after, 8, after) is None
    assert moved_phase(after, saved(after, 8), run_dir) is None


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        (MAIN, 10, (MAIN, LATER)),
        (MAIN, 10, (MAIN, LATER | {"schedule": {"continues": True}})),
        (MAIN, 10, (MAIN, LATER | {"optimizer": {"learning_rate": 1.0}})),
        (MAIN | {"schedule": {"style": "wsd"}}, 7, (MAIN | {"schedule": {"style": "wsd"}, "train_steps": 30},)),
        (MAIN | {"schedule": {"warmup_steps": 4}}, 3, (MAIN | {"schedule": {"warmup_steps": 4}, "train_steps": 30},)),
        (MAIN | STEADY, 7, (MAIN | STEADY | {"train_steps": 30},)),
        (MAIN, 5, (MAIN | {"global_batch_size": 8},)),
        (MAIN, 0, (MAIN | {"train_steps": 30},)),
    ],
)
def test_what_the_schedule_itself_makes_is_not_asked(
    run_dir: RunDir, before: dict[str, Any], step: int, after: tuple[dict[str, Any], ...]
) -> None:
    run_dir.config.write_text(dump_config(config_of(before)))
    assert moved_phase(config_of(*after), saved(config_of(before), max(step, 1)), run_dir) is None or step == 0
    assert moved_phase(config_of(*after), sample_manifest(0), run_dir) is None


def test_a_phase_that_continues_another_than_was_trained_is_asked(run_dir: RunDir) -> None:
    longer = MAIN | {"schedule": {"min_learning_rate_share": 0.5}}
    text = problem(run_dir, config_of(MAIN), 10, config_of(longer, LATER | {"schedule": {"continues": True}}))
    assert text is not None
    assert text.startswith("phases.1 (later): the learning rate of step 11 is 5.0e-04, that of the checkpoint's last")


@pytest.mark.parametrize("length", [8, 9])
def test_another_length_of_an_earlier_phase(run_dir: RunDir, length: int) -> None:
    before = config_of(MAIN | STEADY, LATER | STEADY)
    after = config_of(MAIN | STEADY | {"train_steps": length}, LATER | STEADY)
    text = problem(run_dir, before, 12, after)
    assert text is not None
    assert f"phase later began at step 11, by this configuration at {length + 1}" in text
    text = problem(run_dir, before, 9, config_of(MAIN | STEADY | {"train_steps": 8}, LATER | STEADY))
    assert text is not None
    assert "phase later begins at step 9 by this configuration, and had not begun at 9" in text


def test_a_small_move_is_told_and_not_asked(run_dir: RunDir) -> None:
    before, after = config_of(MAIN | {"train_steps": 1000}), config_of(MAIN | {"train_steps": 1001})
    run_dir.config.write_text(dump_config(before))
    (text,) = require_planned(after, saved(before, 500), run_dir)
    assert text.startswith("phases.0 (main): the learning rate of step 501 is 5.49e-04, ")


def test_the_factor_of_a_rollback_is_no_change_of_the_plan(run_dir: RunDir) -> None:
    config = config_of(MAIN)
    lasting = Adjustment(learning_rate_factor=0.7, adam_betas=None, until_step=9)
    rolled = RollbackRecord(order="a", from_step=9, to_step=4, attempt=1, reason="spike")
    assert problem(run_dir, config, 5, config, factor=0.7, adjustment=lasting) is None
    assert problem(run_dir, config, 4, config, factor=1.0, adjustment=lasting) is None
    assert problem(run_dir, config, 5, config, factor=0.7, rollback=rolled) is None
    assert problem(run_dir, config, 5, config_of(MAIN, rate=1e-2), factor=0.7, rollback=rolled) is not None


def test_weights_without_an_optimizer_continue_no_schedule(run_dir: RunDir) -> None:
    assert problem(run_dir, config_of(MAIN), 5, config_of(MAIN, rate=1e-2), optimizer_norms={}) is None


def test_without_the_configuration_of_before_the_checkpoint_alone_tells(run_dir: RunDir) -> None:
    before = config_of(MAIN)
    moved = moved_phase(config_of(MAIN | {"train_steps": 20}), saved(before, 5), run_dir)
    assert moved is not None
    assert moved.problem is not None
    assert "put back what was changed. To train longer" in moved.problem
    assert moved_phase(before, saved(before, 5), run_dir) is None
