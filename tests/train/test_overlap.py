"""Overlap of communication and computation changes nothing: neither the losses nor what a checkpoint holds.

On GPUs it is on wherever several of them share a model. Here it runs over gloo, where it hides nothing, but takes the
same way through Megatron: parameters of other ranks are stale after an update, until the next forward pass or a save.
"""

from __future__ import annotations

from pathlib import Path

import overlapping
import pytest
import worlds
from pool import Pool
from small_run import Grid, column, launch, small_config

from harness.run import metric_names as names

STEPS = 6
CHANGES = {
    "run.stop_at_step": STEPS,
    "checkpoint.save_every_steps": 3,
    "evaluation.every_steps": 2,
    "evaluation.num_samples_per_channel": 8,
}
GRIDS = {"dp2": Grid(dp=2), "pp2-vp2-dp2": Grid(pp=2, vp=2, dp=2), "tp2-dp2": Grid(tp=2, dp=2)}


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_overlap_changes_neither_losses_nor_checkpoints(grid: Grid, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = small_config(corpus, grid, CHANGES)
    launch(pool, config, tmp_path / "plain")
    exits = pool.run(overlapping.train, grid.world_size, config, tmp_path / "overlapping", "auto")
    assert exits == [0] * grid.world_size
    for name in (names.LM_LOSS, names.GRAD_NORM, names.valid_lm_loss_of("en")):
        assert column(tmp_path / "overlapping", name) == column(tmp_path / "plain", name)

    # Step 3 is saved right after its update, step 6 after an evaluation, which gathers parameters by itself.
    for step in ("step_0000003", "step_0000006"):
        plain, overlapped = (tmp_path / run / "checkpoints" / step for run in ("plain", "overlapping"))
        assert pool.run(worlds.differing_tensors, 1, plain, overlapped) == [{}]
