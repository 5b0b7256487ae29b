"""A rollback returns to a checkpoint and skips for good: the run is then, bit for bit, one that never saw the data."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import worlds
from pool import Pool
from small_run import Grid, column, launch, records, small_config

from harness.data.order.cursor import Cursor, Positions
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir
from harness.train.commands.rollback import positions_of_steps

SAVING = {"checkpoint.save_every_steps": 2}
WINDOW = [32, 48]
"""Positions of the samples of steps 5 and 6 (eight a step)."""
LAST = 10


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def order(run_dir: Path, **fields: object) -> Path:
    file = RunDir(run_dir).signals / "back.json"
    file.write_text(json.dumps({"kind": "rollback", **fields}))
    return file


def healths(run_dir: Path) -> dict[str, str]:
    return {entry.path.name: entry.manifest.health for entry in CheckpointStore(RunDir(run_dir)).list()}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def told_from_the_start(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("told")
    changes = {"run.stop_at_step": LAST, "data.skip_windows": [WINDOW], **SAVING}
    launch(pool, small_config(corpus, Grid(), changes), run_dir, "never")
    return run_dir


@pytest.fixture(scope="module")
def eight_steps(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("eight")
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 8, **SAVING}), run_dir, "never")
    return run_dir


@pytest.fixture
def at_eight(eight_steps: Path, tmp_path: Path) -> Path:
    """Folder of a run that stands at step 8."""
    return shutil.copytree(eight_steps, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True], ids=["waiting", "beside"])
@pytest.mark.parametrize("skip", [{"skip_samples": WINDOW}, {"skip_steps": [5, 6]}], ids=["samples", "steps"])
def test_rollback_equals_a_run_that_was_told(
    skip: dict[str, Any], beside: bool, pool: Pool, corpus: Path, told_from_the_start: Path, at_eight: Path
) -> None:
    order(at_eight, to_step=4, reason="garbled", **skip)
    changes = {"run.stop_at_step": LAST, "checkpoint.async_save": beside, **SAVING}
    launch(pool, small_config(corpus, Grid(), changes), at_eight, "must")

    for name in ("train/lm_loss", "optim/grad_norm", "optim/learning_rate"):
        assert column(at_eight, name) == column(told_from_the_start, name)
    assert [r.batch_hash for r in records(at_eight)] == [r.batch_hash for r in records(told_from_the_start)]
    any_health = ("clean", "suspect")
    newest = [
        CheckpointStore(RunDir(run_dir)).choose("must", healths=any_health).entry
        for run_dir in (at_eight, told_from_the_start)
    ]
    assert pool.run(worlds.differing_tensors, 1, *(entry.path for entry in newest if entry))[0] == {}

    assert [record.attempt for record in records(at_eight)] == [0] * 4 + [1] * 6
    (event,) = events(at_eight, "rollback")
    assert list(event["stages"]) == ["find", "load", "check", "save"]
    assert (event["from_step"], event["step"], event["attempt"]) == (8, 4, 1)
    assert event["skip_windows"] == [WINDOW]
    found = healths(at_eight)
    assert {name for name, health in found.items() if health == "abandoned"} == {"step_0000006", "step_0000008"}
    assert found["step_0000004.2"] == "suspect"
    (done,) = (RunDir(at_eight).signals_done).glob("back-*.json")
    answer = json.loads(done.read_text())
    assert answer["step"] > 4 if beside else answer["step"] == 4  # when the new state was saved
    assert Path(answer["path"]).name == "step_0000004.2"


@pytest.mark.slow
def test_an_order_is_carried_out_once_though_a_crash_hid_that_it_was(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 6, **SAVING}), tmp_path, "never")
    file = order(tmp_path, to_step=2, skip_steps=[3, 3], learning_rate_factor=0.5, adam_betas=[0.8, 0.9], for_steps=2)
    kept = tmp_path / "kept.json"
    shutil.copy2(file, kept)
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 5, **SAVING}), tmp_path, "must")
    shutil.copy2(kept, file)  # as if the acknowledgement had been lost
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 6, **SAVING}), tmp_path, "must")
    assert len(events(tmp_path, "rollback")) == 1
    assert len(events(tmp_path, "rollback-done")) == 1
    assert not file.exists()

    plain = {step: rate for step, rate in enumerate(reference_rates(corpus), start=1)}
    rates = {r.step: r.values["optim/learning_rate"] for r in records(tmp_path)}
    assert rates[3] == plain[3] / 2
    assert rates[4] == plain[4] / 2
    assert rates[5] == plain[5]


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True], ids=["waiting", "beside training"])
def test_a_rollback_that_could_not_be_saved_is_answered_by_the_next_save(
    asynchronous: bool, pool: Pool, corpus: Path, at_eight: Path
) -> None:
    order(at_eight, to_step=4, skip_samples=WINDOW)
    changes = {"run.stop_at_step": LAST, "checkpoint.async_save": asynchronous, **SAVING}
    assert pool.run(worlds.train_on_a_full_disk, 1, small_config(corpus, Grid(), changes), at_eight, 2) == [0]
    # Training that waits tries once more at once, because step 4 is one to save at.
    assert [event["step"] for event in events(at_eight, "save-failed")] == ([4, 6] if asynchronous else [4, 4])
    found = healths(at_eight)
    assert {name for name, health in found.items() if health == "abandoned"} == {"step_0000006", "step_0000008"}
    (done,) = (RunDir(at_eight).signals_done).glob("back-*.json")
    answer = json.loads(done.read_text())
    assert answer["saved"]
    # Beside training a save ends some steps later, perhaps when there is one more.
    assert Path(answer["path"]).name in ({"step_0000008.2", "step_0000010"} if asynchronous else {"step_0000006.2"})


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True], ids=["waiting", "beside training"])
def test_a_rollback_that_was_never_saved_is_carried_out_by_the_next_start(
    asynchronous: bool, pool: Pool, corpus: Path, told_from_the_start: Path, at_eight: Path
) -> None:
    file = order(at_eight, to_step=4, skip_samples=WINDOW)
    changes = {"checkpoint.async_save": asynchronous, **SAVING}
    longer, config = (small_config(corpus, Grid(), changes | {"run.stop_at_step": step}) for step in (3 * LAST, LAST))
    assert pool.run(worlds.train_on_a_full_disk, 1, longer, at_eight, 99) == [76]
    failed = [event["step"] for event in events(at_eight, "save-failed")]
    assert failed[:3] == ([4, 6, 8] if asynchronous else [4, 4, 6])
    assert file.exists()
    assert set(healths(at_eight).values()) == {"suspect"}
    launch(pool, config, at_eight, "must")
    assert not file.exists()
    assert column(at_eight, "train/lm_loss") == column(told_from_the_start, "train/lm_loss")


@pytest.mark.slow
def test_a_start_from_before_a_rollback_skips_all_the_same(
    pool: Pool, corpus: Path, told_from_the_start: Path, at_eight: Path
) -> None:
    order(at_eight, to_step=4, skip_samples=WINDOW)
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 8, **SAVING}), at_eight, "must")
    for entry in CheckpointStore(RunDir(at_eight)).list():
        if entry.manifest.attempt == 1:  # type: ignore[union-attr]
            (entry.path / "manifest.json").write_text("damaged")
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": LAST, **SAVING}), at_eight, "must")
    (*_, resumed) = events(at_eight, "resumed")
    assert Path(resumed["path"]).name == "step_0000004"
    assert column(at_eight, "train/lm_loss") == column(told_from_the_start, "train/lm_loss")


@pytest.mark.slow
def test_behind_its_last_step_a_run_answers_and_leaves(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = small_config(corpus, Grid(), {"run.stop_at_step": 2, **SAVING})
    launch(pool, config, tmp_path, "never")
    file = order(tmp_path, to_step=17)
    launch(pool, config, tmp_path, "must")
    assert not file.exists()
    assert len(events(tmp_path, "rollback-refused")) == 1
    assert [record.step for record in records(tmp_path)] == [1, 2]


@pytest.mark.slow
def test_an_impossible_order_changes_nothing(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 2, **SAVING}), tmp_path, "never")
    order(tmp_path, to_step=17)
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 4, **SAVING}), tmp_path, "must")
    (event,) = events(tmp_path, "rollback-refused")
    assert "asked for step 17, this line has steps 2 (suspect)" in event["reason"]
    assert [record.attempt for record in records(tmp_path)] == [0] * 4
    assert not math.isnan(records(tmp_path)[-1].values["train/lm_loss"])


def eight_samples(cursor: Cursor, step: int) -> tuple[Positions, Cursor]:
    return cursor.take(8, 16)


def reference_rates(corpus: Path) -> list[float]:
    from harness.plan.schedule import learning_rate

    config = small_config(corpus)
    phase = config.phases[0]
    assert phase.train_steps is not None
    peak = config.optimizer.learning_rate
    return [learning_rate(phase.schedule, peak, step, phase.train_steps) for step in range(1, 11)]


@pytest.mark.parametrize(
    ("steps", "window"),
    [((5, 6), (32, 48)), ((1, 6), (32, 48)), ((7, 7), (48, 56)), ((2, 3), (32, 32))],
    ids=["ahead", "partly behind", "later", "behind"],
)
def test_positions_of_steps(steps: tuple[int, int], window: tuple[int, int]) -> None:
    _, cursor = Cursor().take(32, 16)
    assert positions_of_steps(cursor, 4, steps, eight_samples) == window


def test_positions_of_steps_around_an_earlier_window() -> None:
    cursor = Cursor(skip_windows=((10, 20),))
    assert positions_of_steps(cursor, 0, (2, 2), eight_samples) == (8, 26)
