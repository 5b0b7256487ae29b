"""Modules that predict further tokens train the same under every layout, go on bitwise, and under another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import expert_jobs
import pytest
import worlds
from pool import Pool
from small_run import GENTLE, LAYOUT_STEPS, Grid, KindRun, assert_the_same, kept_runs, launch, records, small_config
from test_train_resume import Stretch, comparable, launch_in_stretches

from harness.run.paths import RunDir

TOLERANCE = 1e-5
MODULES: dict[str, Any] = {**GENTLE, "model.mtp_num_layers": 2, "model.mtp_loss_scaling_factor": 0.3}
UNTIED: dict[str, Any] = {
    **MODULES,
    "model.untie_embeddings_and_output_weights": True,
    "model.scale_embedding": True,
    "model.z_loss_coefficient": 0.01,
    "model.final_logit_softcapping": 5.0,
    "data.reset_at_document_borders": True,
}
EXPERTS: dict[str, Any] = {
    **MODULES,
    "model.untie_embeddings_and_output_weights": True,
    "model.num_moe_experts": 4,
    "model.moe_layer_freq": [0, 0, 1, 1],
    "model.moe_ffn_hidden_size": 48,
    "model.moe_shared_expert_intermediate_size": 32,
    "model.moe_router_load_balancing_type": "seq_aux_loss",
    "model.moe_aux_loss_coeff": 0.02,
}
KINDS = {"tied": MODULES, "untied": UNTIED, "experts": EXPERTS}
DENSE_GRIDS = {
    "dp2": Grid(dp=2),
    "micro-batches-of-2": Grid(dp=2, micro_batch_size=2),
    "tp2": Grid(tp=2),
    "tp2-sequence-parallel": Grid(tp=2, sequence_parallel=True),
    "pp2": Grid(pp=2),
    "pp2-vp2": Grid(pp=2, vp=2),
    "pp2-dp2": Grid(pp=2, dp=2),
    "pp2-tp2": Grid(pp=2, tp=2, sequence_parallel=True),
}
EXPERT_GRIDS = {
    "ep2": Grid(dp=2, ep=2),
    "pp2-ep2": Grid(pp=2, dp=2, ep=2),
    "tp2-ep2-etp1": Grid(tp=2, ep=2, etp=1, sequence_parallel=True),
}
GRIDS = DENSE_GRIDS | EXPERT_GRIDS
ALWAYS = {
    "tied": ("micro-batches-of-2", "tp2-sequence-parallel", "pp2-vp2"),
    "untied": ("dp2", "pp2-dp2", "pp2-tp2"),
    "experts": ("pp2-ep2", "tp2-ep2-etp1"),
}
CASES = [
    pytest.param(kind, name, id=f"{kind}-{name}", marks=() if name in ALWAYS[kind] else pytest.mark.thorough)
    for kind in KINDS
    for name in (EXPERT_GRIDS if kind == "experts" else DENSE_GRIDS)
]


@pytest.fixture(scope="module")
def module_run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> KindRun:
    return kept_runs(pool, corpus, tmp_path_factory.mktemp("modules"), KINDS)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "grid"), CASES)
def test_layout_trains_the_same_modules(kind: str, grid: str, module_run: KindRun) -> None:
    base, run = records(module_run(kind, Grid())), records(module_run(kind, GRIDS[grid]))
    assert len(run) == LAYOUT_STEPS
    assert_the_same(run, base, TOLERANCE)
    assert run[-1].values.keys() >= {"train/mtp_loss/1", "train/mtp_loss/2"}


RESUMED = [("tied", Grid(tp=2, sequence_parallel=True)), ("untied", Grid(pp=2, dp=2)), ("experts", GRIDS["pp2-ep2"])]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "grid"), RESUMED, ids=[kind for kind, _ in RESUMED])
def test_modules_resume_bitwise(
    kind: str, grid: Grid, pool: Pool, corpus: Path, module_run: KindRun, tmp_path: Path
) -> None:
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(grid, 5), Stretch(grid, LAYOUT_STEPS)], KINDS[kind])
    straight, resumed = records(module_run(kind, grid)), records(tmp_path)
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (module_run(kind, grid), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


WAYS = {
    "tied": ("pp2", "tp2", "pp2-vp2", "dp2"),
    "untied": ("pp2", "tp2", "pp2-dp2", "dp2"),
    "experts": ("pp2-ep2", "tp2-ep2-etp1", "pp2-ep2", "ep2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WAYS)
def test_modules_go_on_under_other_layouts(
    kind: str, pool: Pool, corpus: Path, module_run: KindRun, tmp_path: Path
) -> None:
    stops = zip(WAYS[kind], (2, 4, 7, LAYOUT_STEPS), strict=True)
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(GRIDS[name], step) for name, step in stops], KINDS[kind])
    straight, resumed = records(module_run(kind, Grid())), records(tmp_path)
    for name in ("train/lm_loss", "train/mtp_loss/1", "train/mtp_loss/2", "optim/grad_norm"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=TOLERANCE)
    assert [record.experts_by_layer for record in resumed] == [record.experts_by_layer for record in straight]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "grid"), [("untied", Grid()), ("experts", GRIDS["tp2-ep2-etp1"])], ids=["one", "tp2"])
def test_recomputing_changes_nothing(kind: str, grid: Grid, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    found = []
    for way in ("none", "selective", "full"):
        config = small_config(corpus, grid, {**KINDS[kind], "parallel.recompute": way, "run.stop_at_step": 3})
        launch(pool, config, tmp_path / way)
        found.append([comparable(record) for record in records(tmp_path / way)])
    assert found[1] == found[0]
    assert found[2] == found[0]


@pytest.mark.slow
def test_a_refused_step_moves_no_bias_of_a_module(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    grid = GRIDS["pp2-ep2"]
    config = small_config(corpus, grid, {**EXPERTS, "model.moe_router_bias_update_rate": 0.25})
    of_ranks = pool.run(expert_jobs.biases_around_steps, grid.world_size, config, tmp_path)
    start, after, refused, later = of_ranks[-1]
    assert start == [[0.0] * 4] * 4  # the last two layers, and two modules
    assert {abs(bias) for layer in after for bias in layer} <= {0.0, 0.25}
    assert all(moved != before for moved, before in zip(after, start, strict=True))
    assert refused == after
    assert later != refused
    assert of_ranks[-2] == of_ranks[-1]


def test_nothing_holds_a_model_with_modules(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    changes = {**EXPERTS, "model.mtp_num_layers": 1, "model.num_layers": 2, "model.moe_layer_freq": 1}
    config = small_config(corpus, changes=changes)
    assert pool.run(expert_jobs.model_is_let_go, 1, config, tmp_path) == [True]
