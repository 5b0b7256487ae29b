"""A save: whoever writes a file hashes it meanwhile, and nobody reads it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import worlds_of_scale
from pool import Pool
from small_run import Grid, small_config

from harness.run.checkpoints.manifest import read_manifest
from harness.run.checkpoints.signature import SigningKey, read_key
from harness.run.checkpoints.verify import verify
from harness.run.paths import RunDir


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
@pytest.mark.parametrize("beside", [False, True], ids=["waiting", "beside"])
def test_nobody_reads_what_a_rank_has_written(
    beside: bool, signed: bool, pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "run.stop_at_step": 3,
        "checkpoint.save_every_steps": 1,
        "checkpoint.async_save": beside,
    }
    key: SigningKey | None = None
    if signed:
        (tmp_path / "key").write_bytes(bytes(range(32)))
        (tmp_path / "key").chmod(0o600)
        changes["checkpoint.signature_key_file"] = tmp_path / "key"
        key = read_key(tmp_path / "key")
    config = small_config(corpus, Grid(dp=2), changes)
    first, second = pool.run(worlds_of_scale.read_again, 2, config, tmp_path / "run")
    assert set(first) >= {".metadata", "metadata.json"}
    assert not any(name.endswith(".distcp") for name in first)
    assert second == []
    saved = RunDir(tmp_path / "run").checkpoint(3)
    assert {"__0_0.distcp", "__1_0.distcp"} == {name for name in read_manifest(saved).files if "distcp" in name}
    assert verify(saved, deep=True, key=key) == []


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(dp=2), Grid(tp=2, dp=2), Grid(dp=4)], ids=["dp2", "tp2-dp2", "dp4"])
def test_ranks_tell_each_other_once_what_they_write_and_read_it_once(
    grid: Grid, pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    config = small_config(corpus, grid, {})
    run_dir = tmp_path / "run"
    ranks = pool.run(worlds_of_scale.saves_and_loads, grid.world_size, config, run_dir)
    tensors = sum(path.stat().st_size for path in RunDir(run_dir).checkpoint(2).glob("*.distcp"))
    for (first_save, second_save, load), _, _ in ranks:
        assert first_save != []
        assert second_save == []
        # Who reads what is agreed among replicas, and nothing else.
        assert load == ([] if grid.tp > 1 else ["all_gather_object"])
    # Each replica reads its part, and objects.
    assert tensors <= sum(num_bytes for _, num_bytes, _ in ranks) < 1.1 * tensors
    # Rank 0 reads the small files, and tells the others.
    first, *others = (opened for _, _, opened in ranks)
    assert first >= {".metadata", "metadata.json"}
    assert all(name.endswith(".distcp") for opened in others for name in opened)
