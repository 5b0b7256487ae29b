"""Uneven pipelines train the same, save what even ones read, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import worlds
from pool import Pool
from small_run import EVALUATION, GENTLE, LAYOUT_STEPS, Grid, launch, records, small_config
from test_train_resume import Stretch, comparable, launch_in_stretches

from harness.run.paths import RunDir

SIX_LAYERS = {**GENTLE, "model.num_layers": 6}
EXPERTS: dict[str, Any] = {
    **SIX_LAYERS,
    "model.num_moe_experts": 4,
    "model.moe_layer_freq": "[0]+[1]*4+[0]",
    "model.moe_ffn_hidden_size": 48,
}
GRIDS = {
    "pp2": Grid(pp=2, layout="Et*5|tL"),
    "pp2-vp2": Grid(pp=2, layout="Et|ttt|t|tL"),
    "embedding-alone-vp2": Grid(pp=2, layout="E|t*3|tt|tL"),
    "both-ends-alone": Grid(pp=4, layout="E|tttt|tt|L"),
    "ends-count-vp2": Grid(pp=2, vp=2, counts_ends=True),
    "ends-count-alone": Grid(pp=4, vp=2, counts_ends=True),
    "tp2-pp2": Grid(tp=2, pp=2, layout="Et|tttttL", sequence_parallel=True),
}
EXPERT_GRIDS = {
    "pp2-vp2": Grid(pp=2, layout="E|t*3|tt|tL"),
    "pp2-ep2": Grid(pp=2, dp=2, ep=2, layout="Et|t*5L"),
}
TOLERANCE = 1e-5
Run = Callable[[Grid, Mapping[str, Any]], Path]


@pytest.fixture(scope="module")
def run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first ten steps of a run under a layout; each is made once."""
    folder = tmp_path_factory.mktemp("uneven")
    made: dict[tuple[Grid, str], Path] = {}

    def get(grid: Grid, changes: Mapping[str, Any]) -> Path:
        key = (grid, str(changes))
        if key not in made:
            made[key] = folder / f"run-{len(made)}"
            stop = {"run.stop_at_step": LAYOUT_STEPS, **EVALUATION}
            launch(pool, small_config(corpus, grid, stop | dict(changes)), made[key])
        return made[key]

    return get


def assert_same(found: Path, expected: Path) -> None:
    assert len(records(found)) == len(records(expected)) == LAYOUT_STEPS
    for record, other in zip(records(found), records(expected), strict=True):
        names = {name for name in other.values if not name.startswith("perf/")}
        assert {name: record.values[name] for name in names} == pytest.approx(
            {name: other.values[name] for name in names}, rel=TOLERANCE
        )
        assert record.experts_by_layer == other.experts_by_layer


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_an_uneven_pipeline_trains_the_same(grid: Grid, run: Run) -> None:
    assert_same(run(grid, SIX_LAYERS), run(Grid(), SIX_LAYERS))


@pytest.mark.slow
@pytest.mark.parametrize("grid", EXPERT_GRIDS.values(), ids=EXPERT_GRIDS)
def test_an_uneven_pipeline_trains_the_same_experts(grid: Grid, run: Run) -> None:
    """Layers with experts are counted over all stages."""
    assert_same(run(grid, EXPERTS), run(Grid(), EXPERTS))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SIX_LAYERS, EXPERTS], ids=["dense", "experts"])
def test_runs_go_on_between_even_and_uneven_pipelines(
    changes: dict[str, Any], pool: Pool, corpus: Path, run: Run, tmp_path: Path
) -> None:
    way = [Grid(pp=2), Grid(pp=2, layout="E|t*3|tt|tL"), Grid(pp=2, vp=3), Grid(pp=2, layout="Et*5|tL"), Grid(pp=2)]
    stretches = [Stretch(grid, step) for grid, step in zip(way, (2, 4, 6, 8, LAYOUT_STEPS), strict=True)]
    launch_in_stretches(pool, corpus, tmp_path, stretches, changes)
    straight, resumed = records(run(Grid(), changes)), records(tmp_path)
    for name in ("train/lm_loss", "optim/grad_norm"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=TOLERANCE)


@pytest.mark.slow
def test_an_uneven_pipeline_resumes_bitwise(pool: Pool, corpus: Path, run: Run, tmp_path: Path) -> None:
    grid = GRIDS["embedding-alone-vp2"]
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(grid, 5), Stretch(grid, LAYOUT_STEPS)], SIX_LAYERS)
    straight, resumed = records(run(grid, SIX_LAYERS)), records(tmp_path)
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (run(grid, SIX_LAYERS), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


WAYS = {
    "modules": {
        "parallel.recompute_granularity": "selective",
        "parallel.recompute_modules": ["layernorm", "core_attn", "mlp"],
    },
    "two-layers": {
        "parallel.recompute_granularity": "full",
        "parallel.recompute_method": "block",
        "parallel.recompute_num_layers": 2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_recomputing_on_an_uneven_pipeline_changes_no_bit(way: dict[str, Any], run: Run) -> None:
    grid = GRIDS["embedding-alone-vp2"]
    plain, again = records(run(grid, SIX_LAYERS)), records(run(grid, SIX_LAYERS | way))
    assert [comparable(record) for record in again] == [comparable(record) for record in plain]
