"""Parts that a rank looks at when a run starts: only the first rank looks at all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import worlds_of_scale
from data_parts import random_documents, write_channel
from pool import Pool
from small_run import CHANNELS, Grid, small_config

NUM_PARTS = 20


@pytest.mark.slow
def test_only_the_first_rank_looks_at_every_part(pool: Pool, tmp_path: Path) -> None:
    for seed, name in enumerate(CHANNELS):
        parts = [random_documents(20, seed=100 * seed + number) for number in range(NUM_PARTS)]
        write_channel(tmp_path / "data" / name, parts)
    changes = {"data.damaged_parts": "ignore", "data.adopt_parts": False}  # those read whole parts, a share each
    config = small_config(tmp_path / "data", Grid(dp=2), changes)
    first, second = pool.run(worlds_of_scale.looked_at, 2, config, tmp_path / "run")
    assert first == NUM_PARTS  # of the same names in three channels
    assert second <= 3
