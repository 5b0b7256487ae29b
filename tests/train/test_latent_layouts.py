"""A model with latent attention trains the same under every layout, goes on bitwise, and under another layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import worlds
from pool import Pool
from small_run import EVALUATION, GENTLE, LAYOUT_STEPS, Grid, assert_the_same, launch, records, small_config
from test_train_resume import Stretch, comparable, launch_in_stretches

from harness.run.paths import RunDir

LATENT: dict[str, Any] = {
    **GENTLE,
    "model.num_query_groups": None,
    "model.multi_latent_attention": True,
    "model.q_lora_rank": 24,
    "model.kv_lora_rank": 16,
    "model.qk_head_dim": 16,
    "model.qk_pos_emb_head_dim": 8,
    "model.v_head_dim": 12,
    "model.qk_layernorm": True,
    "model.rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.5,
        "mscale_all_dim": 1.0,
    },
    "data.reset_at_document_borders": True,
}
EXPERTS = {
    **LATENT,
    "model.q_lora_rank": None,
    "model.num_moe_experts": 8,
    "model.moe_layer_freq": [0, 1, 1, 1],
    "model.moe_ffn_hidden_size": 48,
    "model.moe_router_topk": 4,
    "model.moe_router_num_groups": 4,
    "model.moe_router_group_topk": 2,
    "model.moe_shared_expert_intermediate_size": 32,
}
KINDS = {"dense": LATENT, "experts": EXPERTS}
FULL = {"parallel.recompute": "full"}
SELECTIVE = {"parallel.recompute": "selective"}


def _grid(**sizes: Any) -> Grid:
    return Grid(**sizes, micro_batch_size=2)


LAYOUTS: dict[str, tuple[str, Grid, dict[str, Any]]] = {
    "dense-tp2": ("dense", _grid(tp=2), {}),
    "dense-tp2-sp": ("dense", _grid(tp=2, sequence_parallel=True), SELECTIVE),
    "dense-dp2": ("dense", _grid(dp=2), {}),
    "dense-pp2": ("dense", _grid(pp=2), FULL),
    "dense-pp2-vp2": ("dense", _grid(pp=2, vp=2), {}),
    "experts-dp2-ep2": ("experts", _grid(dp=2, ep=2), SELECTIVE),
    "experts-tp2": ("experts", _grid(tp=2, sequence_parallel=True), {}),
    "experts-tp2-ep2": ("experts", _grid(tp=2, ep=2, etp=1, sequence_parallel=True), {}),
    "experts-pp2-vp2": ("experts", _grid(pp=2, vp=2), FULL),
    "experts-pp2-tp2-ep2": ("experts", _grid(pp=2, tp=2, ep=2, etp=1, sequence_parallel=True), {}),
}
THOROUGH = ("dense-dp2", "dense-pp2-vp2", "experts-tp2", "experts-pp2-tp2-ep2")
CASES = [pytest.param(name, marks=pytest.mark.thorough if name in THOROUGH else ()) for name in LAYOUTS]
TOLERANCE = 1e-5
LatentRun = Callable[[str, Grid, dict[str, Any]], Path]


@pytest.fixture(scope="module")
def latent_run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentRun:
    folder = tmp_path_factory.mktemp("latent")
    made: dict[str, Path] = {}

    def run(kind: str, grid: Grid, others: dict[str, Any]) -> Path:
        key = repr((kind, grid, others))
        if key not in made:
            made[key] = folder / f"{kind}-{len(made)}"
            changes = {"run.stop_at_step": LAYOUT_STEPS, **EVALUATION, **KINDS[kind], **others}
            launch(pool, small_config(corpus, grid, changes), made[key])
        return made[key]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_layout_trains_the_same_latents(layout: str, latent_run: LatentRun) -> None:
    kind, grid, others = LAYOUTS[layout]
    base, run = records(latent_run(kind, _grid(), {})), records(latent_run(kind, grid, others))
    assert len(run) == LAYOUT_STEPS
    assert_the_same(run, base, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_of_latents_gives_the_same_bits(recompute: str, latent_run: LatentRun) -> None:
    base = records(latent_run("dense", _grid(), {}))
    run = records(latent_run("dense", _grid(), {"parallel.recompute": recompute}))
    for name in ("train/lm_loss", "optim/grad_norm"):
        assert [record.values[name] for record in run] == [record.values[name] for record in base]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["dense-tp2", "experts-tp2-ep2"])
def test_latents_resume_bitwise(layout: str, pool: Pool, corpus: Path, latent_run: LatentRun, tmp_path: Path) -> None:
    kind, grid, _ = LAYOUTS[layout]
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(grid, 5), Stretch(grid, LAYOUT_STEPS)], KINDS[kind])
    straight, resumed = records(latent_run(kind, grid, {})), records(tmp_path)
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (latent_run(kind, grid, {}), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


@pytest.mark.slow
def test_latents_go_on_under_other_layouts(pool: Pool, corpus: Path, latent_run: LatentRun, tmp_path: Path) -> None:
    way = [
        _grid(dp=2, ep=2),
        _grid(tp=2, sequence_parallel=True),
        _grid(pp=2),
        _grid(tp=2, ep=2, etp=1, sequence_parallel=True),
    ]
    stretches = [Stretch(grid, step) for grid, step in zip(way, (2, 5, 7, LAYOUT_STEPS), strict=True)]
    launch_in_stretches(pool, corpus, tmp_path, stretches, EXPERTS)
    straight, resumed = records(latent_run("experts", _grid(), {})), records(tmp_path)
    for name in ("train/lm_loss", "optim/grad_norm"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=TOLERANCE)
