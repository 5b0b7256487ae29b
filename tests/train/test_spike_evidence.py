"""Evidence says what samples lose now and what they are made of, and the run goes on as if nobody had asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from small_run import CHANNELS, EVALUATION, Grid, column, launch, records, small_config

from harness.run import metric_names as names
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir

SAVING = {"checkpoint.save_every_steps": 2}
STANDING_STILL = {"optimizer.learning_rate": 1e-30}
"""The weights stay what they are, so that a sample loses again what it lost in its step."""
BATCH = 8


def order(run_dir: Path, **fields: object) -> None:
    (RunDir(run_dir).signals / "look.json").write_text(json.dumps(fields))


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def evidence(run_dir: Path) -> list[dict[str, Any]]:
    (event,) = events(run_dir, "evidence")
    return [json.loads(line) for line in Path(event["path"]).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(), Grid(pp=2, dp=2), Grid(tp=2)], ids=["one", "pp2-dp2", "tp2"])
def test_every_sample_of_the_steps_with_what_it_loses(grid: Grid, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    changes = {"run.stop_at_step": 5, **SAVING, **STANDING_STILL}
    launch(pool, small_config(corpus, grid, changes), tmp_path, "never")
    order(tmp_path, kind="evidence", steps=[2, 4])
    launch(pool, small_config(corpus, grid, {**changes, "run.stop_at_step": 6}), tmp_path, "must")

    lines = evidence(tmp_path)
    assert sorted(line["position"] for line in lines) == list(range(BATCH, 4 * BATCH))
    assert all(line["step"] == 1 + line["position"] // BATCH for line in lines)
    losses = [line["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    for record in records(tmp_path)[1:4]:
        for channel in CHANNELS:
            mine = [line for line in lines if (line["step"], line["channel"]) == (record.step, channel)]
            assert record.values.get(names.tokens_of(channel), 0) == sum(line["tokens"] for line in mine)
            if mine:
                mean = math.fsum(line["loss"] * line["tokens"] for line in mine) / sum(line["tokens"] for line in mine)
                assert mean == pytest.approx(record.values[names.lm_loss_of(channel)], abs=1e-5)
    assert all(line["documents"] and line["part"] for line in lines)
    assert all(0 < line["most_common_token_share"] < 0.5 and line["repeated_share"] < 0.5 for line in lines)


@pytest.mark.slow
def test_a_run_that_was_asked_goes_on_bit_for_bit(pool: Pool, corpus: Path, base_run: Path, tmp_path: Path) -> None:
    settings = {**SAVING, **EVALUATION}  # as of the base run: what is held out follows from them
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 4, **settings}), tmp_path, "never")
    order(tmp_path, kind="evidence", steps=[1, 4])
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 8, **settings}), tmp_path, "must")
    assert len(evidence(tmp_path)) == 4 * BATCH
    for name in (names.LM_LOSS, names.GRAD_NORM):
        assert column(tmp_path, name) == column(base_run, name)[:8]


@pytest.mark.slow
def test_evidence_of_the_future_is_refused_and_marks_are_entered(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    trusting = {**SAVING, "checkpoint.save_as_suspect": False}
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 4, **trusting}), tmp_path, "never")
    order(tmp_path, kind="evidence", steps=[4, 5])
    (RunDir(tmp_path).signals / "mark.json").write_text(
        json.dumps({"kind": "mark", "checkpoints": ["step_0000002", "step_0000099"], "health": "suspect"})
    )
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 5, **trusting}), tmp_path, "must")
    (event,) = events(tmp_path, "evidence-refused")
    assert event["reason"] == "steps 4 to 5 are not done yet: the run is at step 4"
    assert not list(RunDir(tmp_path).evidence_folder.iterdir())
    (marked,) = events(tmp_path, "marked-suspect")
    assert marked["checkpoints"] == ["step_0000002"]
    healths = {entry.step: entry.manifest.health for entry in CheckpointStore(RunDir(tmp_path)).list()}  # type: ignore[union-attr]
    assert healths == {2: "suspect", 4: "clean", 5: "clean"}
