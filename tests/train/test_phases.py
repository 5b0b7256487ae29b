"""Several phases in one run: what each step is made with, and that a run goes on exactly from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worlds
from phased_run import BORDERS, LAST_STEP, PHASES, phased_config
from pool import Pool
from small_run import Grid, column, launch, records

from harness.plan.plan import make_plan
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir

SAVING = {"checkpoint.save_every_steps": 5, "evaluation.every_steps": 5, "evaluation.num_samples_per_channel": 4}
TWO_RANKS = {"tensor_model_parallel_size": 2, "sequence_parallel": True}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run from its first step to its last, in one launch."""
    run_dir = tmp_path_factory.mktemp("phases") / "whole"
    launch(pool, phased_config(corpus, Grid(), SAVING), run_dir)
    return run_dir


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def by_step(run_dir: Path) -> dict[int, tuple[Any, ...]]:
    """What a step was, and what came of it, to the last bit."""
    return {
        record.step: (
            record.phase,
            record.batch_hash,
            record.consumed_samples,
            record.values["train/lm_loss"],
            record.values["optim/grad_norm"],
            record.values["optim/learning_rate"],
        )
        for record in records(run_dir)
    }


def final(run_dir: Path) -> Path:
    return RunDir(run_dir).checkpoint(LAST_STEP)


def test_every_step_is_that_of_the_plan(whole: Path, corpus: Path) -> None:
    plan = make_plan(phased_config(corpus), 1)
    found = records(whole)
    assert [record.step for record in found] == list(range(1, LAST_STEP + 1))
    assert [record.phase for record in found] == [phase["name"] for phase in PHASES for _ in range(6)]
    assert column(whole, "optim/learning_rate") == [plan.learning_rate(step) for step in range(1, LAST_STEP + 1)]
    sizes = [plan.batch_size(step) for step in range(1, LAST_STEP + 1)]
    assert sizes[:6] == [4, 4, 4, 8, 8, 8]
    assert [record.consumed_samples for record in found] == np.cumsum(sizes).tolist()
    lengths = [plan.phase_of(step).seq_length for step in range(1, LAST_STEP + 1)]
    assert [record.consumed_tokens for record in found] == np.cumsum(np.multiply(sizes, lengths)).tolist()
    for record, size, length in zip(found, sizes, lengths, strict=True):
        assert sum(value for name, value in record.values.items() if name.startswith("train/tokens/")) == size * length


def test_a_border_is_an_event_and_a_pinned_checkpoint(whole: Path) -> None:
    told = [
        (event["step"], event["before"], event["phase"], event["same_processes"]) for event in events(whole, "phase")
    ]
    names = [phase["name"] for phase in PHASES]
    assert told == [(step, names[n], names[n + 1], True) for n, step in enumerate(BORDERS)]
    pinned = {entry.step: entry.manifest.pinned for entry in CheckpointStore(RunDir(whole)).list()}
    assert pinned == {step: step in BORDERS for step in (5, 6, 10, 12, 15, 18, 20, 24)}


def test_each_phase_evaluates_its_own_channels(whole: Path) -> None:
    evaluated = {
        record.step: {name.split("/")[-1] for name in record.values if name.startswith("valid/lm_loss/")}
        for record in records(whole)
        if any(name.startswith("valid/") for name in record.values)
    }
    everything = {"zh", "en", "code"}
    assert evaluated == {
        **dict.fromkeys((5, 6, 10, 12, 15, 18), everything),
        **dict.fromkeys((20, 24), {"zh", "code"}),
    }


def test_the_frozen_stay_and_the_others_do_not(whole: Path, pool: Pool) -> None:
    store = RunDir(whole)
    (before,) = pool.run(worlds.checkpoint_tensors, 1, store.checkpoint(18))
    (after,) = pool.run(worlds.checkpoint_tensors, 1, store.checkpoint(24))
    moved = {name for name in before if name != "groups" and not np.array_equal(before[name], after[name])}
    weights = {name for name in before if name.startswith(("decoder", "embedding"))}
    assert "embedding.word_embeddings.weight" in weights - moved
    assert "decoder.final_layernorm.weight" in moved


def test_a_run_that_is_stopped_everywhere_ends_with_the_same_bits(
    whole: Path, corpus: Path, pool: Pool, tmp_path: Path
) -> None:
    """In the middle of a phase, before, at and after its border, and where a checkpoint is due anyway."""
    for step in (2, 5, 6, 7, 12, 13, 17, 18, 19):
        launch(pool, phased_config(corpus, Grid(), {**SAVING, "run.stop_at_step": step}), tmp_path)
        assert by_step(tmp_path) == {each: found for each, found in by_step(whole).items() if each <= step}
    launch(pool, phased_config(corpus, Grid(), SAVING), tmp_path, "must")
    assert by_step(tmp_path) == by_step(whole)
    assert pool.run(worlds.differing_tensors, 1, final(tmp_path), final(whole)) == [{}]


@pytest.mark.parametrize("grid", [Grid(pp=2), Grid(dp=2, micro_batch_size=2)], ids=str)
def test_another_layout_has_the_same_samples_and_losses(
    grid: Grid, whole: Path, corpus: Path, pool: Pool, tmp_path: Path
) -> None:
    launch(pool, phased_config(corpus, grid, SAVING), tmp_path)
    assert_same_but_for_rounding(tmp_path, whole)


def assert_same_but_for_rounding(run_dir: Path, whole: Path) -> None:
    assert [record.batch_hash for record in records(run_dir)] == [record.batch_hash for record in records(whole)]
    np.testing.assert_allclose(column(run_dir, "train/lm_loss"), column(whole, "train/lm_loss"), rtol=2e-5)


def test_a_phase_with_a_layout_of_its_own_goes_on_in_other_processes(
    whole: Path, corpus: Path, pool: Pool, tmp_path: Path
) -> None:
    config = phased_config(corpus, Grid(), SAVING, {"long": {"parallel": TWO_RANKS}})
    for world_size, code, step, next_phase in ((1, 75, 12, "long"), (2, 75, 18, "anneal"), (1, 0, 24, None)):
        assert pool.run(worlds.train, world_size, config, tmp_path, "auto") == [code] * world_size
        (*_, left) = events(tmp_path, "exit")
        assert (left["step"], left.get("next_phase")) == (step, next_phase)
    assert [event["same_processes"] for event in events(tmp_path, "phase")] == [True, False, False]
    assert {record.attempt for record in records(tmp_path)} == {0}
    assert_same_but_for_rounding(tmp_path, whole)


def test_a_rollback_into_an_earlier_phase_trains_it_again(corpus: Path, pool: Pool, tmp_path: Path) -> None:
    launch(pool, phased_config(corpus, Grid(), {**SAVING, "run.stop_at_step": 14}), tmp_path)
    order = {"kind": "rollback", "to_step": 10, "skip_steps": [12, 13]}
    (RunDir(tmp_path).signals / "back.json").write_text(json.dumps(order))
    launch(pool, phased_config(corpus, Grid(), SAVING), tmp_path, "must")
    again = [record for record in records(tmp_path) if record.attempt == 1]
    assert [(record.step, record.phase) for record in again[:4]] == [
        (11, "main"),
        (12, "main"),
        (13, "long"),
        (14, "long"),
    ]
    (event,) = events(tmp_path, "rollback")
    assert event["skip_windows"] == [[36 + 5 * 8, 36 + 6 * 8 + 4]]
    assert records(tmp_path)[-1].step == LAST_STEP
