"""Comparing the ranks: what is recorded, who is named, and that all ranks take part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pool import Pool
from small_run import Grid, launch, small_config

from harness.run.paths import RunDir
from harness.run.records import read_records
from harness.train.steps.pace import Pace, slow_of, slow_text, spread

SPREADS = ("perf/compute_spread", "perf/data_wait_spread_s", "perf/step_time_spread_s")


def pace(rank: int, compute_ms: float = 0.2, step_s: float = 1.0, data_s: float = 0.5) -> Pace:
    return Pace(rank=rank, compute_ms=compute_ms, step_s=step_s, data_s=data_s)


def test_the_spread_is_between_the_slowest_and_the_usual() -> None:
    paces = [pace(0), pace(1), pace(2, compute_ms=0.3, step_s=1.25), pace(3, data_s=3.0)]
    assert spread(paces) == pytest.approx(dict(zip(SPREADS, (1.5, 2.5, 0.25), strict=True)))


def test_who_computes_slowly_is_named_by_host() -> None:
    hosts = [f"n{rank // 2}" for rank in range(30)]
    assert slow_of([pace(rank) for rank in range(4)]) == []
    assert slow_text([pace(0), pace(1), pace(2, compute_ms=0.3), pace(3, compute_ms=0.4)], hosts) == (
        "slow at computing: rank 3 on n1 (0.40 ms), rank 2 on n1 (0.30 ms), where others take 0.20 ms"
    )
    many = slow_text([pace(rank, compute_ms=0.2 if rank < 20 else 1.0) for rank in range(30)], hosts)
    assert "and 2 more, where others take 0.20 ms" in many


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4]), (0, [])])
def test_ranks_are_compared_every_so_many_steps(
    pool: Pool, corpus: Path, tmp_path: Path, every: int, steps: list[int]
) -> None:
    grid = Grid(pp=2)
    config = small_config(corpus, grid, {"logging.compare_ranks_every_steps": every, "run.stop_at_step": 5})
    run_dir = RunDir(tmp_path / "run")
    launch(pool, config, run_dir.root)
    for record in read_records(run_dir.metrics):
        assert [name in record.values for name in SPREADS] == [record.step in steps] * 3
    beats = [json.loads(run_dir.heartbeat(rank).read_text()) for rank in (0, 1)]
    assert [beat["compute_ms"] for beat in beats] == [None, None]  # processes on one machine's cores are not compared
