"""A checkpoint's optimizer state: the same bits as Megatron's own way of gathering, and written by all replicas."""

from __future__ import annotations

from pathlib import Path

import gathering_jobs
import pytest
from pool import Pool
from small_run import Grid, launch, small_config

from harness.run.paths import RunDir

BF16 = {"precision.dtype": "bf16"}


@pytest.mark.parametrize(
    ("grid", "changes"), [(Grid(), {}), (Grid(dp=2), {}), (Grid(tp=2, dp=2), BF16), (Grid(pp=2, vp=2, dp=2), {})]
)
def test_the_whole_state_is_megatrons_to_the_bit(
    pool: Pool, corpus: Path, tmp_path: Path, grid: Grid, changes: dict[str, object]
) -> None:
    config = small_config(corpus, grid, changes)
    for compared, different in pool.run(gathering_jobs.compare_ways, grid.world_size, config, tmp_path / "run"):
        assert compared > 3 * 4
        assert different == []


@pytest.mark.parametrize("beside", [False, True])
def test_every_replica_writes_its_share(pool: Pool, corpus: Path, tmp_path: Path, *, beside: bool) -> None:
    changes = {"run.stop_at_step": 2, "checkpoint.save_every_steps": 1, "checkpoint.async_save": beside}
    launch(pool, small_config(corpus, Grid(dp=2), changes), tmp_path)
    files = list(RunDir(tmp_path).checkpoint(1).glob("*.distcp"))
    written = [sum(file.stat().st_size for file in files if file.name.startswith(f"__{rank}_")) for rank in (0, 1)]
    assert min(written) > 0.4 * sum(written)
