"""A rollback out of the host's memory is, bit for bit, one out of the shared store, and falls back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import worlds
from pool import Pool
from small_run import Grid, column, records, small_config

from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir

SAVING = {"checkpoint.save_every_steps": 2, "run.stop_at_step": 8}
GRID = Grid(tp=2, dp=2)


def event(run_dir: Path) -> dict[str, Any]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    (found,) = [fields for line in lines if (fields := json.loads(line))["kind"] == "rollback"]
    return found


def train(pool: Pool, corpus: Path, run_dir: Path, changes: dict[str, Any]) -> None:
    """Trains to step 6, goes back to step 4 without a restart, skips samples, and trains to step 8."""
    config = small_config(corpus, GRID, {**SAVING, **changes})
    codes = pool.run(worlds.train_and_return, GRID.world_size, config, run_dir, 6, {"to_step": 4, "skip_steps": [5, 5]})
    assert codes == [0] * GRID.world_size


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_rollback_out_of_memory_is_one_out_of_the_store(dtype: str, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    kept = {"checkpoint.snapshot_every_steps": 2, "checkpoint.snapshots_kept": 2}
    for name, changes in {"memory": kept, "store": {}}.items():
        train(pool, corpus, tmp_path / name, {**changes, "precision.dtype": dtype})
    memory, store = tmp_path / "memory", tmp_path / "store"
    assert (event(memory)["from_memory"], event(store)["from_memory"]) == (True, False)
    for name in ("train/lm_loss", "optim/grad_norm", "optim/learning_rate"):
        assert column(memory, name) == column(store, name)
    newest = [
        CheckpointStore(RunDir(run_dir)).choose("must", healths=("clean", "suspect")).entry
        for run_dir in (memory, store)
    ]
    assert pool.run(worlds.differing_tensors, 1, *(entry.path for entry in newest if entry))[0] == {}
    assert [r.step for r in records(memory) if r.values.get("perf/snapshot_s")] == [3, 7]
