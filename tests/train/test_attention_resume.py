"""Parameters of attention beside its projections go on under other layouts: sinks, and vectors of positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from small_run import EVALUATION, GENTLE, Grid, column, launch, small_config
from test_train_resume import Stretch, launch_in_stretches

KINDS: dict[str, dict[str, Any]] = {
    "sinks": {
        **GENTLE,
        "model.softmax_type": "learnable",
        "model.window_size": 8,
        "model.window_attn_skip_freq": 2,
        "model.window_rotary_base": 100.0,
    },
    "learned-positions": {
        **GENTLE,
        "model.position_embedding_type": "learned_absolute",
        "model.max_position_embeddings": 32,
        "model.normalization": "LayerNorm",
        "model.add_bias_linear": True,
    },
}
LAST_STEP = 8


@pytest.mark.slow
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_attention_goes_on_under_other_layouts(
    changes: dict[str, Any], pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    launch(
        pool, small_config(corpus, Grid(), {"run.stop_at_step": LAST_STEP, **EVALUATION, **changes}), tmp_path / "one"
    )
    way = [Grid(tp=2, sequence_parallel=True), Grid(pp=2), Grid(dp=2), Grid(tp=2)]
    stretches = [Stretch(grid, step) for grid, step in zip(way, (2, 4, 6, LAST_STEP), strict=True)]
    launch_in_stretches(pool, corpus, tmp_path / "many", stretches, changes)
    for name in ("train/lm_loss", "optim/grad_norm"):
        assert column(tmp_path / "many", name) == pytest.approx(column(tmp_path / "one", name), rel=1e-5)
