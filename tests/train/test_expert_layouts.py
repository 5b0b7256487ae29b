"""A model with experts trains the same under every layout, goes on bitwise, and under another layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import expert_jobs
import pytest
import worlds
from pool import Pool
from small_run import GENTLE, LAYOUT_STEPS, Grid, KindRun, assert_the_same, kept_runs, records, small_config
from test_train_resume import Stretch, comparable, launch_in_stretches

from harness.run.paths import RunDir

EXPERTS: dict[str, Any] = {
    **GENTLE,
    "model.num_moe_experts": 8,
    "model.moe_layer_freq": [0, 1, 1, 1],
    "model.moe_ffn_hidden_size": 48,
    "model.moe_router_topk": 2,
    "model.moe_shared_expert_intermediate_size": 32,
}
WITH_LOSSES = {
    "model.moe_router_enable_expert_bias": False,
    "model.moe_router_score_function": "softmax",
    "model.moe_router_load_balancing_type": "seq_aux_loss",
    "model.moe_aux_loss_coeff": 0.02,
    "model.moe_z_loss_coeff": 0.001,
    "model.moe_shared_expert_gate": True,
}
KINDS = {"bias": {}, "losses": WITH_LOSSES}
GRIDS = {
    "dp2": Grid(dp=2),
    "ep2": Grid(dp=2, ep=2),
    "ep4": Grid(dp=4, ep=4),
    "ep2-of-dp4": Grid(dp=4, ep=2),
    "tp2": Grid(tp=2, sequence_parallel=True),
    "tp2-etp1": Grid(tp=2, etp=1, sequence_parallel=True),
    "tp2-ep2-etp1": Grid(tp=2, ep=2, etp=1, sequence_parallel=True),
    "tp2-dp2-ep2": Grid(tp=2, dp=2, ep=2, sequence_parallel=True),
    "tp2-dp2-ep4-etp1": Grid(tp=2, dp=2, ep=4, etp=1, sequence_parallel=True),
    "etp2": Grid(dp=2, etp=2),
    "pp2": Grid(pp=2),
    "pp2-ep2": Grid(pp=2, dp=2, ep=2),
    "pp2-vp2": Grid(pp=2, vp=2),
    "pp2-tp2-ep2-etp1": Grid(pp=2, tp=2, ep=2, etp=1, sequence_parallel=True),
}
IN_EVERY_RUN = {
    "bias": ("ep2", "tp2-ep2-etp1", "etp2"),
    "losses": ("ep2", "tp2-etp1", "tp2-dp2-ep2", "etp2", "pp2-ep2", "pp2-vp2"),
}
"""With biases, those whose runs are made for other tests anyway."""
CASES = [
    pytest.param(kind, grid, id=f"{name}-{kind}", marks=() if name in IN_EVERY_RUN[kind] else pytest.mark.thorough)
    for name, grid in GRIDS.items()
    for kind in KINDS
]
TOLERANCE = 1e-5
GOLDEN = Path(__file__).with_name("golden_experts.json")
GOLDEN_TOLERANCES = {"train/lm_loss": 2e-5, "optim/grad_norm": 2e-4}


@pytest.fixture(scope="module")
def expert_run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> KindRun:
    return kept_runs(
        pool, corpus, tmp_path_factory.mktemp("experts"), {kind: EXPERTS | own for kind, own in KINDS.items()}
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "grid"), CASES)
def test_layout_trains_the_same_experts(kind: str, grid: Grid, expert_run: KindRun) -> None:
    base, run = records(expert_run(kind, Grid())), records(expert_run(kind, grid))
    assert len(run) == LAYOUT_STEPS
    assert_the_same(run, base, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_experts_are_golden(kind: str, expert_run: KindRun, request: pytest.FixtureRequest) -> None:
    """Those of the day when they were written down; see `test_golden.py` for tolerances, and how to write new ones."""
    steps = records(expert_run(kind, Grid()))
    found = {name: [step.values[name] for step in steps] for name in (*GOLDEN_TOLERANCES, "experts/max_load")}
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--write-golden"):
        GOLDEN.write_text(json.dumps(golden | {kind: found}, indent=1) + "\n")
        return
    for name, values in found.items():
        assert values == pytest.approx(golden[kind][name], rel=GOLDEN_TOLERANCES.get(name, 1e-9)), name


RESUMED = {name: GRIDS[name] for name in IN_EVERY_RUN["bias"]}


@pytest.mark.slow
@pytest.mark.parametrize("grid", RESUMED.values(), ids=RESUMED)
def test_experts_resume_bitwise(grid: Grid, pool: Pool, corpus: Path, expert_run: KindRun, tmp_path: Path) -> None:
    """Weights, moments and biases: five steps and five steps are ten."""
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(grid, 5), Stretch(grid, LAYOUT_STEPS)], EXPERTS)
    straight, resumed = records(expert_run("bias", grid)), records(tmp_path)
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (expert_run("bias", grid), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


@pytest.mark.slow
def test_experts_go_on_under_other_layouts(pool: Pool, corpus: Path, expert_run: KindRun, tmp_path: Path) -> None:
    way = [GRIDS[name] for name in ("ep2", "tp2-etp1", "pp2", "dp2", "ep4", "etp2", "ep2")]
    stretches = [Stretch(grid, step) for grid, step in zip(way, (2, 3, 5, 6, 7, 8, LAYOUT_STEPS), strict=True)]
    launch_in_stretches(pool, corpus, tmp_path, stretches, EXPERTS)
    straight, resumed = records(expert_run("bias", Grid())), records(tmp_path)
    for name in ("train/lm_loss", "optim/grad_norm", "experts/max_load"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=TOLERANCE)
    assert [record.experts_by_layer for record in resumed] == [record.experts_by_layer for record in straight]


@pytest.mark.slow
def test_a_refused_step_moves_no_bias(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    grid = Grid(dp=2, ep=2)
    config = small_config(corpus, grid, {**EXPERTS, "model.moe_router_bias_update_rate": 0.25})
    (start, after, refused, later), of_other_rank = pool.run(
        expert_jobs.biases_around_steps, grid.world_size, config, tmp_path
    )
    assert start == [[0.0] * 8] * 3
    assert {abs(bias) for layer in after for bias in layer} <= {0.0, 0.25}
    assert after != start
    assert refused == after
    assert later != refused
    assert [start, after, refused, later] == of_other_rank
