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
DENSE, WITH_EXPERTS = Grid(tp=2, dp=2), Grid(tp=2, dp=2, ep=2, etp=1, sequence_parallel=True)
EXPERTS = {
    "model.num_moe_experts": 4,
    "model.moe_layer_freq": [0, 1, 0, 1],
    "model.moe_router_bias_update_rate": 0.05,
}
RUNS: dict[str, tuple[Grid, dict[str, Any]]] = {
    "fp32": (DENSE, {}),
    "bf16": (DENSE, {"precision.dtype": "bf16"}),
    "muon in bf16": (DENSE, {"optimizer.kind": "muon", "precision.dtype": "bf16"}),
    "experts in bf16": (WITH_EXPERTS, {**EXPERTS, "precision.dtype": "bf16"}),
}


def event(run_dir: Path) -> dict[str, Any]:
    lines = RunDir(run_dir).events.read_text().splitlines()
    (found,) = [fields for line in lines if (fields := json.loads(line))["kind"] == "rollback"]
    return found


def train(pool: Pool, corpus: Path, grid: Grid, run_dir: Path, changes: dict[str, Any]) -> None:
    """Trains to step 6, goes back to step 4 without a restart, skips samples, and trains to step 8."""
    config = small_config(corpus, grid, {**SAVING, **changes})
    codes = pool.run(worlds.train_and_return, grid.world_size, config, run_dir, 6, {"to_step": 4, "skip_steps": [5, 5]})
    assert codes == [0] * grid.world_size


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "changes"), RUNS.values(), ids=RUNS)
def test_a_rollback_out_of_memory_is_one_out_of_the_store(
    grid: Grid, changes: dict[str, Any], pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    kept = {"checkpoint.snapshot_every_steps": 2, "checkpoint.snapshots_kept": 2}
    for name, snapshots in {"memory": kept, "store": {}}.items():
        train(pool, corpus, grid, tmp_path / name, {**snapshots, **changes})
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
