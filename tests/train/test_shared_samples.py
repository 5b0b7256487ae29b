"""Ranks that share samples train the same as one rank, in every way in which they attend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import worlds
from pool import Pool
from small_run import GENTLE, LAYOUT_STEPS, Grid, KindRun, assert_the_same, kept_runs, launch, records, small_config
from test_train_resume import Stretch, comparable, launch_in_stretches

from harness.run.paths import RunDir

TOLERANCE = 1e-5
SAMPLES: dict[str, Any] = {**GENTLE, "model.num_query_groups": 4}
DOCUMENTS: dict[str, Any] = {**SAMPLES, "data.reset_at_document_borders": True}
KINDS: dict[str, dict[str, Any]] = {
    "samples": SAMPLES,
    "documents": DOCUMENTS,
    "rules": {
        **DOCUMENTS,
        "model.num_query_groups": 2,
        "model.window_size": 7,
        "model.window_attn_skip_freq": 2,
        "model.softmax_type": "learnable",
        "model.attn_logit_softcapping": 20.0,
    },
    "latent": {
        **DOCUMENTS,
        "model.num_query_groups": None,
        "model.multi_latent_attention": True,
        "model.kv_lora_rank": 16,
        "model.qk_head_dim": 16,
        "model.qk_pos_emb_head_dim": 8,
        "model.v_head_dim": 12,
    },
    "experts": {
        **SAMPLES,
        "model.num_moe_experts": 4,
        "model.moe_layer_freq": [0, 1, 1, 1],
        "model.moe_ffn_hidden_size": 48,
        "model.moe_router_load_balancing_type": "seq_aux_loss",
        "model.moe_aux_loss_coeff": 0.02,
    },
    "further-tokens": {**DOCUMENTS, "model.mtp_num_layers": 2, "model.untie_embeddings_and_output_weights": True},
    "learned-positions": {
        **DOCUMENTS,
        "model.position_embedding_type": "learned_absolute",
        "model.max_position_embeddings": 32,
    },
}
HEADS: dict[str, Any] = {"exchange": "a2a"}
CASES: list[tuple[str, Grid, bool]] = [
    # kind, grid, whether `make test` has it
    ("samples", Grid(cp=2), True),
    ("samples", Grid(cp=2, **HEADS), False),
    ("samples", Grid(cp=4), True),
    ("samples", Grid(cp=4, **HEADS), False),
    ("samples", Grid(cp=2, tp=2), False),
    ("samples", Grid(cp=2, dp=2, micro_batch_size=2), False),
    ("samples", Grid(cp=2, tp=2, pp=2, sequence_parallel=True), False),
    ("documents", Grid(cp=2), False),
    ("documents", Grid(cp=2, **HEADS), False),
    ("documents", Grid(cp=4), False),
    ("documents", Grid(cp=4, **HEADS), True),
    ("documents", Grid(cp=2, tp=2, sequence_parallel=True), True),
    ("documents", Grid(cp=2, tp=2, **HEADS), False),
    ("documents", Grid(cp=2, pp=2, vp=2, micro_batch_size=2), True),
    ("documents", Grid(cp=2, dp=2, micro_batch_size=2, **HEADS), False),
    ("documents", Grid(cp=2, tp=2, pp=2, sequence_parallel=True), False),
    ("documents", Grid(cp=2, tp=2, pp=2, sequence_parallel=True, **HEADS), False),
    ("rules", Grid(cp=2), True),
    ("rules", Grid(cp=2, **HEADS), False),
    ("rules", Grid(cp=2, tp=2), False),
    ("latent", Grid(cp=2), False),
    ("latent", Grid(cp=2, **HEADS), True),
    ("latent", Grid(cp=2, tp=2, sequence_parallel=True), False),
    ("experts", Grid(cp=2, ep=2), True),
    ("experts", Grid(cp=2, tp=2, ep=2, sequence_parallel=True), False),
    ("further-tokens", Grid(cp=2), True),
    ("further-tokens", Grid(cp=2, pp=2, **HEADS), False),
    ("learned-positions", Grid(cp=2), True),
]


@pytest.fixture(scope="module")
def shared_run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> KindRun:
    return kept_runs(pool, corpus, tmp_path_factory.mktemp("shared"), KINDS)


def _name(kind: str, grid: Grid) -> str:
    given = {"cp": grid.cp, "tp": grid.tp, "pp": grid.pp, "vp": grid.vp, "dp": grid.dp, "ep": grid.ep}
    return "-".join(
        [kind, *(f"{axis}{size}" for axis, size in given.items() if size > 1), grid.exchange or "allgather"]
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        pytest.param(kind, grid, id=_name(kind, grid), marks=() if always else pytest.mark.thorough)
        for kind, grid, always in CASES
    ],
)
def test_layout_trains_the_same(kind: str, grid: Grid, shared_run: KindRun) -> None:
    base, run = records(shared_run(kind, Grid())), records(shared_run(kind, grid))
    assert len(run) == LAYOUT_STEPS
    assert_the_same(run, base, TOLERANCE)


RESUMED = {
    "documents": Grid(cp=2, tp=2, sequence_parallel=True),
    "latent": Grid(cp=2, exchange="a2a"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESUMED)
def test_runs_resume_bitwise(kind: str, pool: Pool, corpus: Path, shared_run: KindRun, tmp_path: Path) -> None:
    grid = RESUMED[kind]
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(grid, 5), Stretch(grid, LAYOUT_STEPS)], KINDS[kind])
    straight, resumed = records(shared_run(kind, grid)), records(tmp_path)
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (shared_run(kind, grid), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


@pytest.mark.slow
def test_a_run_goes_on_with_more_ranks_that_share_samples(
    pool: Pool, corpus: Path, shared_run: KindRun, tmp_path: Path
) -> None:
    grids = (Grid(cp=2), Grid(tp=2), Grid(cp=4), Grid(cp=2, pp=2, exchange="a2a"))
    stretches = [Stretch(grid, step) for grid, step in zip(grids, (2, 4, 7, LAYOUT_STEPS), strict=True)]
    launch_in_stretches(pool, corpus, tmp_path, stretches, DOCUMENTS)
    straight, resumed = records(shared_run("documents", Grid())), records(tmp_path)
    for name in ("train/lm_loss", "optim/grad_norm"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(cp=2), Grid(cp=2, exchange="a2a")], ids=["allgather", "a2a"])
def test_recomputing_changes_nothing(grid: Grid, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [
        {"parallel.recompute": "none"},
        {"parallel.recompute": "full"},
        {"parallel.recompute_granularity": "selective", "parallel.recompute_modules": ["core_attn", "layernorm"]},
    ]
    found = []
    for number, way in enumerate(ways):
        config = small_config(corpus, grid, {**KINDS["rules"], **way, "run.stop_at_step": 3})
        launch(pool, config, tmp_path / str(number))
        found.append([comparable(record) for record in records(tmp_path / str(number))])
    assert found[1] == found[0]
    assert found[2] == found[0]
