"""Saves beside training whose state a device copies as late as it may: bit for bit those that training waits for.

On a CPU, with a stand-in for the device (`late_device.py`), real models and updates; `tests/gpu` has the device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import worlds
from late_copies import begin_twice, train_late
from pool import Pool
from small_run import Grid, column, launch, small_config

from harness import cli
from harness.run.checkpoints.manifest import read_manifest
from harness.run.paths import RunDir

STEPS = 5
EVERY_STEP = {"run.stop_at_step": STEPS, "checkpoint.save_every_steps": 1}
ASYNC = {"checkpoint.async_save": True}
EXPERTS = {
    "model.num_moe_experts": 4,
    "model.moe_ffn_hidden_size": 48,
    "model.moe_router_score_function": "sigmoid",
    "model.moe_router_enable_expert_bias": True,
}


def differs(run: Path, other: Path, step: int) -> bool:
    pair = [str(RunDir(each).checkpoint(step)) for each in (run, other)]
    code = cli.run(["checkpoint", "diff", *pair, "--deep"])
    assert code in (0, 1), "both can be read"
    return code == 1


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


@pytest.mark.parametrize(
    ("grid", "changes"),
    [(Grid(), {"precision.dtype": "bf16"}), (Grid(dp=2), {}), (Grid(dp=2), EXPERTS)],
    ids=["1-bf16", "dp2", "dp2-experts"],
)
def test_a_late_copy_is_of_the_step_that_is_saved(
    pool: Pool, corpus: Path, tmp_path: Path, grid: Grid, changes: dict[str, Any]
) -> None:
    """A save begins at each step, so each uses the memory of the one before."""
    waited, late = tmp_path / "waited", tmp_path / "late"
    launch(pool, small_config(corpus, grid, EVERY_STEP | changes), waited)
    asked = pool.run(train_late, grid.world_size, small_config(corpus, grid, EVERY_STEP | ASYNC | changes), late)
    assert column(late, "train/lm_loss") == column(waited, "train/lm_loss")
    for step in range(1, STEPS + 1):
        assert not differs(waited, late, step)
        norms = [read_manifest(RunDir(run_dir).checkpoint(step)).optimizer_norms for run_dir in (waited, late)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-12)
    assert events(late, "save-waited") == []
    for of_rank in asked:
        assert len([word for word in of_rank if word.startswith("pin")]) == 1
        assert of_rank.count("copy") == of_rank.count("hold") == STEPS


@pytest.mark.parametrize("lacking", ["hold", "word"])
def test_without_either_wait_the_checkpoint_is_another(pool: Pool, corpus: Path, tmp_path: Path, lacking: str) -> None:
    """So the test above would notice."""
    settings = {"run.stop_at_step": 2, "checkpoint.save_every_steps": 1}
    waited, late = tmp_path / "waited", tmp_path / "late"
    launch(pool, small_config(corpus, Grid(), settings), waited)
    pool.run(train_late, 1, small_config(corpus, Grid(), settings | ASYNC), late, lacking)
    assert differs(waited, late, 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"refusal": "out of memory"}, "cannot be pinned: out of memory"),
        ({"free_bytes": 1000}, "of optimizer state do not fit into half of the 0.0 GiB that the GPU has left"),
    ],
    ids=["not-pinned", "no-room"],
)
def test_where_training_waits_for_the_copy_it_says_so(
    pool: Pool, corpus: Path, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    settings = {"run.stop_at_step": 2, "checkpoint.save_every_steps": 1}
    waited, late = tmp_path / "waited", tmp_path / "late"
    launch(pool, small_config(corpus, Grid(dp=2), settings), waited)
    pool.run(train_late, 2, small_config(corpus, Grid(dp=2), settings | ASYNC), late, None, options)
    assert not differs(waited, late, 1)
    (event,) = events(late, "save-waited")
    assert event["step"] == 1
    assert reason in event["reason"]


def test_without_a_process_training_waits_for_the_copy_and_writes(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    settings = {"run.stop_at_step": 2, "checkpoint.save_every_steps": 1}
    waited, late = tmp_path / "waited", tmp_path / "late"
    launch(pool, small_config(corpus, Grid(), settings), waited)
    pool.run(train_late, 1, small_config(corpus, Grid(), settings | ASYNC), late, "process")
    assert not differs(waited, late, 1)
    assert [event["reason"] for event in events(late, "save-waited")] == ["Resource temporarily unavailable"]


def test_without_memory_that_save_fails_and_training_goes_on(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    settings = {"run.stop_at_step": 4, "checkpoint.save_every_steps": 2}
    waited, late = tmp_path / "waited", tmp_path / "late"
    launch(pool, small_config(corpus, Grid(dp=2), settings), waited)
    pool.run(train_late, 2, small_config(corpus, Grid(dp=2), settings | ASYNC), late, "memory")
    (event,) = events(late, "save-failed")
    assert event["step"] == 2
    assert "rank 1: Cannot allocate memory" in event["reason"]
    assert not differs(waited, late, 4)


def test_memory_that_a_writer_reads_is_not_used_again(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    ((early, late),) = pool.run(begin_twice, 1, small_config(corpus, Grid(), {}), tmp_path)
    assert early == "the save before was not finished, and this one would use its memory"
    assert late == ""


def test_a_rollback_waits_for_the_copy(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    settings = EVERY_STEP | ASYNC
    rollback = (3, {"to_step": 1, "reason": "a test"})
    plain, late = tmp_path / "plain", tmp_path / "late"
    codes = pool.run(worlds.train_and_return, 1, small_config(corpus, Grid(), settings), plain, *rollback)
    assert codes == [0]
    pool.run(train_late, 1, small_config(corpus, Grid(), settings), late, None, None, rollback)
    assert events(late, "rollback")
    assert column(late, "train/lm_loss") == column(plain, "train/lm_loss")
    for step in range(1, STEPS + 1):
        assert not differs(plain, late, step)
