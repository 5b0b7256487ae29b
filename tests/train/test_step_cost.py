"""What a step of ours costs beside a bare megatron-core step, in calls: they can be counted, and times are noisy."""

from __future__ import annotations

from pathlib import Path

import counting
import pytest
from pool import Pool

from benchmarks.step import benchmark_config

LAYOUTS = {
    "alone": {},
    "dp2": {"data_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", LAYOUTS.values(), ids=LAYOUTS)
def test_no_rank_makes_more_collectives_than_in_the_bare_loop(
    parallel: dict[str, int], pool: Pool, tmp_path: Path
) -> None:
    benchmark_config(tmp_path, 1)  # writes the corpus, before several ranks would do it at once
    world_size = 2 if parallel else 1
    for ours, bare, difference in pool.run(counting.collectives, world_size, tmp_path, parallel):
        assert 0 < sum(ours.values()) <= sum(bare.values())
        assert difference < 1e-3
