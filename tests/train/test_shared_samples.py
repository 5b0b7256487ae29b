"""Ranks that share samples train the same as one rank, in every way in which they attend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool import Pool
from small_run import EVALUATION, GENTLE, LAYOUT_STEPS, Grid, launch, records, small_config

TOLERANCE = 1e-5
SAMPLES: dict[str, Any] = {**GENTLE, "model.num_query_groups": 4}
DOCUMENTS: dict[str, Any] = {**SAMPLES, "data.reset_at_document_borders": True}
KINDS: dict[str, dict[str, Any]] = {"samples": SAMPLES, "documents": DOCUMENTS}
GRIDS = {
    "cp2": Grid(cp=2),
    "cp2-a2a": Grid(cp=2, exchange="a2a"),
    "cp4": Grid(cp=4),
    "cp4-a2a": Grid(cp=4, exchange="a2a"),
    "cp2-tp2": Grid(cp=2, tp=2, sequence_parallel=True),
    "cp2-tp2-a2a": Grid(cp=2, tp=2, exchange="a2a"),
    "cp2-pp2-vp2": Grid(cp=2, pp=2, vp=2, micro_batch_size=2),
    "cp2-dp2-a2a": Grid(cp=2, dp=2, micro_batch_size=2, exchange="a2a"),
    "cp2-tp2-pp2": Grid(cp=2, tp=2, pp=2, sequence_parallel=True),
    "cp2-tp2-pp2-a2a": Grid(cp=2, tp=2, pp=2, sequence_parallel=True, exchange="a2a"),
}
SharedRun = Callable[[str, Grid], Path]


@pytest.fixture(scope="module")
def shared_run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> SharedRun:
    folder = tmp_path_factory.mktemp("shared")
    made: dict[tuple[str, Grid], Path] = {}

    def run(kind: str, grid: Grid) -> Path:
        if (kind, grid) not in made:
            made[kind, grid] = folder / f"{kind}-{len(made)}"
            changes = {"run.stop_at_step": LAYOUT_STEPS, **EVALUATION, **KINDS[kind]}
            launch(pool, small_config(corpus, grid, changes), made[kind, grid])
        return made[kind, grid]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_layout_trains_the_same(kind: str, grid: str, shared_run: SharedRun) -> None:
    base, run = records(shared_run(kind, Grid())), records(shared_run(kind, GRIDS[grid]))
    assert len(run) == LAYOUT_STEPS
    assert [record.experts_by_layer for record in run] == [record.experts_by_layer for record in base]
    for record, expected in zip(run, base, strict=True):
        names = {name for name in expected.values if not name.startswith("perf/")}
        assert {name for name in record.values if not name.startswith("perf/")} == names
        assert {name: record.values[name] for name in names} == pytest.approx(
            {name: expected.values[name] for name in names}, rel=TOLERANCE
        )
