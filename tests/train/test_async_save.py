"""Checkpoints written beside training are, bit for bit, those that training waits for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import worlds
from disturbed_runs import SAVE_EVERY, campaign_site, everybody, is_saving
from pool import Pool
from process_runs import Site, kill_when
from small_run import Grid, column, launch, records, small_config

from harness import cli
from harness.run.checkpoints.manifest import read_manifest
from harness.run.paths import RunDir

STEPS = 8
SAVING = {"run.stop_at_step": STEPS, "checkpoint.save_every_steps": 3}
ASYNC = {"checkpoint.async_save": True}


def order_return(run_dir: Path, to_step: int, reason: str) -> None:
    """A rollback saves at once what it has loaded, under the layout of the launch that carries it out."""
    (RunDir(run_dir).signals / "back.json").parent.mkdir(parents=True, exist_ok=True)
    order = {"kind": "rollback", "to_step": to_step, "reason": reason}  # the same order is not carried out twice
    (RunDir(run_dir).signals / "back.json").write_text(json.dumps(order))


def steps_saved(run_dir: Path) -> list[int]:
    return [event["step"] for event in saved_events(run_dir)]


def saved_events(run_dir: Path) -> list[dict[str, Any]]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == "saved"]


@pytest.mark.slow
def test_an_asynchronous_save_is_the_synchronous_one_and_loads_under_another_layout(
    pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    """Save at tp2·dp2, resume at pp2, save there, and back: weights and moments in every bit."""
    wide, deep = Grid(tp=2, dp=2), Grid(pp=2)
    waited, beside = tmp_path / "waited", tmp_path / "beside"
    launch(pool, small_config(corpus, wide, SAVING), waited)
    launch(pool, small_config(corpus, wide, SAVING | ASYNC), beside)
    assert column(beside, "train/lm_loss") == column(waited, "train/lm_loss")
    assert steps_saved(beside) == [3, 6, 8]
    assert list(saved_events(beside)[0]["stages"]) == ["begin", "stage", "write", "index", "publish"]
    for step in (3, 6, STEPS):
        pair = [str(RunDir(run_dir).checkpoint(step)) for run_dir in (waited, beside)]
        assert cli.run(["checkpoint", "diff", *pair, "--deep"]) == 0
        measured, beside_training = (read_manifest(Path(path)).optimizer_norms for path in pair)
        assert measured["exp_avg"] > 0
        assert beside_training == pytest.approx(measured, rel=1e-12)

    alone = tmp_path / "alone"
    codes = pool.run(worlds.train_without_processes, wide.world_size, small_config(corpus, wide, SAVING | ASYNC), alone)
    assert codes == [0] * wide.world_size
    lines = map(json.loads, RunDir(alone).events.read_text().splitlines())
    waited_for = [(event["step"], event["reason"]) for event in lines if event["kind"] == "save-waited"]
    assert waited_for == [(step, "Resource temporarily unavailable") for step in (3, 6)]
    assert cli.run(["checkpoint", "diff", *(str(RunDir(of).checkpoint(6)) for of in (waited, alone)), "--deep"]) == 0

    stalled = {r.step: r.values["perf/save_stall_s"] for r in records(beside) if "perf/save_stall_s" in r.values}
    assert 4 in stalled
    assert set(column(beside, "perf/save_s"))

    moved = tmp_path / "moved"
    RunDir(moved).checkpoints.mkdir(parents=True)
    RunDir(beside).checkpoint(3).rename(RunDir(moved).checkpoint(3))
    order_return(moved, to_step=3, reason="save at pp2")
    launch(pool, small_config(corpus, deep, {"run.stop_at_step": 4, **ASYNC}), moved, "must")
    order_return(moved, to_step=3, reason="and back at tp2 dp2")
    launch(pool, small_config(corpus, wide, {"run.stop_at_step": 5, **ASYNC}), moved, "must")
    at_3 = [RunDir(moved).checkpoints / name for name in ("step_0000003", "step_0000003.2", "step_0000003.3")]
    assert [(item.tensor, item.pipeline, item.data) for item in (read_manifest(path).layout for path in at_3)] == [
        (2, 1, 2),
        (1, 2, 1),
        (2, 1, 2),
    ]
    for path in at_3[1:]:
        assert cli.run(["checkpoint", "diff", str(at_3[0]), str(path), "--deep"]) == 0
    assert read_manifest(at_3[1]).optimizer_norms == pytest.approx(read_manifest(at_3[0]).optimizer_norms, rel=1e-9)
    for name in ("train/lm_loss", "optim/grad_norm"):
        assert column(moved, name) == pytest.approx(column(waited, name)[3:5], rel=1e-5)


@pytest.mark.slow
def test_a_save_in_flight_that_is_killed_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    site = campaign_site(tmp_path, async_save=True)
    kill_when(site.train(), lambda: is_saving(site) and bool(complete(site)), everybody)
    assert [name for name in site.checkpoints() if name.endswith(".partial")]
    left = complete(site)
    site.config["run"]["stop_at_step"] = 2 * SAVE_EVERY + 1
    code, text = site.train().finish()
    assert code == 0, text
    assert f"resuming small from {site.run_dir.checkpoints / left[-1]}" in text
    assert not [name for name in site.checkpoints() if name.endswith(".partial")]


def complete(site: Site) -> list[str]:
    return [name for name in site.checkpoints() if not name.endswith(".partial")]
