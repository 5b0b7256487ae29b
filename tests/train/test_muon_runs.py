"""Muon in a run: torch's curve, the same under every layout, and exact over saves, stops and refused steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import muon_run
import pytest
import torch
import worlds
from pool import JobFailedError, Pool
from reference import hugging_face_model, train_reference
from small_run import EVALUATION, GENTLE, LAYOUT_STEPS, Grid, KindRun, column, kept_runs, launch, records, small_config
from test_train_resume import Stretch, comparable, launch_in_stretches

from harness.run.paths import RunDir

MUON: dict[str, Any] = {**GENTLE, "optimizer.kind": "muon", "model.num_layers": 2}
EXPERTS: dict[str, Any] = MUON | {
    "model.num_moe_experts": 4,
    "model.moe_layer_freq": [0, 1],
    "model.moe_ffn_hidden_size": 48,
}
KINDS = {"dense": MUON, "experts": EXPERTS}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def muon_run_of(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> KindRun:
    return kept_runs(pool, corpus, tmp_path_factory.mktemp("muon"), KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_run_draws_torchs_curve(precision: str, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """Twenty steps of torch.optim.Muon over Hugging Face's matrices, and of AdamW for the rest.

    torch iterates in bf16, where the last bits of a gradient decide over roundings; in fp32 the curves agree closely.
    """
    num_steps, in_fp32 = 20, precision == "highest"
    config = small_config(corpus, changes=MUON | {"optimizer.muon_fp32_matmul_prec": precision})
    weights = pool.run(worlds.initial_weights, 1, config)[0]
    found = pool.run(worlds.steps, 1, config, tmp_path, num_steps)[0]
    with patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone if in_fp32 else torch.Tensor.bfloat16):
        plain = train_reference(hugging_face_model(config.model, weights), config, num_steps)
    assert [loss for loss, _ in found] == pytest.approx([step["loss"] for step in plain], rel=1e-5 if in_fp32 else 1e-4)
    assert [norm for _, norm in found] == pytest.approx(
        [step["grad_norm"] for step in plain], rel=1e-4 if in_fp32 else 1e-2
    )


GRIDS = {
    "dense-tp2": ("dense", Grid(tp=2, sequence_parallel=True)),
    "dense-dp2": ("dense", Grid(dp=2)),
    "dense-pp2": ("dense", Grid(pp=2)),
    "dense-tp2-dp2": ("dense", Grid(tp=2, dp=2)),
    "experts-ep2": ("experts", Grid(dp=2, ep=2)),
    "experts-tp2-dp2-ep2-etp1": ("experts", Grid(tp=2, dp=2, ep=2, etp=1, sequence_parallel=True)),
    "experts-etp2": ("experts", Grid(dp=2, etp=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "grid"), GRIDS.values(), ids=GRIDS)
def test_layout_trains_the_same(kind: str, grid: Grid, muon_run_of: KindRun) -> None:
    base, run = muon_run_of(kind, Grid()), muon_run_of(kind, grid)
    assert len(records(run)) == LAYOUT_STEPS
    for name in ("train/lm_loss", "optim/grad_norm"):
        assert column(run, name) == pytest.approx(column(base, name), rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense-tp2-dp2", "experts-ep2"])
def test_resume_is_bitwise(name: str, pool: Pool, corpus: Path, muon_run_of: KindRun, tmp_path: Path) -> None:
    kind, grid = GRIDS[name]
    for number, stop in enumerate((5, LAYOUT_STEPS)):
        config = small_config(corpus, grid, {"run.stop_at_step": stop, **EVALUATION, **KINDS[kind]})
        launch(pool, config, tmp_path, "must" if number else "never")
    straight, resumed = records(muon_run_of(kind, grid)), records(tmp_path)
    # A run that stops evaluates once more, at its last step.
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (muon_run_of(kind, grid), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("dense", [Grid(dp=2), Grid(tp=2), Grid(pp=2), Grid()]),
        ("experts", [Grid(dp=2, ep=2), Grid(dp=2, etp=2), Grid(), Grid(dp=2)]),
    ],
)
def test_a_run_goes_on_under_other_layouts(
    kind: str, way: list[Grid], pool: Pool, corpus: Path, muon_run_of: KindRun, tmp_path: Path
) -> None:
    stretches = [Stretch(grid, step) for grid, step in zip(way, (2, 5, 7, LAYOUT_STEPS), strict=True)]
    launch_in_stretches(pool, corpus, tmp_path, stretches, KINDS[kind])
    for name in ("train/lm_loss", "optim/grad_norm"):
        straight = column(muon_run_of(kind, Grid()), name)
        assert column(tmp_path, name) == pytest.approx(straight, rel=TOLERANCE)


@pytest.mark.slow
def test_a_checkpoint_has_one_average_of_a_matrix(pool: Pool, muon_run_of: KindRun) -> None:
    checkpoint = RunDir(muon_run_of("dense", Grid(dp=2))).checkpoint(LAYOUT_STEPS)
    tensors = pool.run(worlds.checkpoint_tensors, 1, checkpoint)[0]
    matrix, norm = "decoder.layers.mlp.linear_fc2.weight", "decoder.final_layernorm.weight"
    assert f"optimizer.state.exp_avg.{matrix}" in tensors
    assert f"optimizer.state.exp_avg_sq.{matrix}" not in tensors
    assert f"optimizer.state.exp_avg_sq.{norm}" in tensors


@pytest.mark.slow
def test_a_refused_step_changes_nothing(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """Neither weights nor averages of any rank."""
    config = small_config(corpus, Grid(tp=2, dp=2), MUON)
    for applied, refused, later in pool.run(muon_run.states_around_steps, 4, config, tmp_path):
        assert refused == applied
        assert len(later) == len(applied)
        assert all(one != other for one, other in zip(applied, later, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_refused(
    before: str, after: str, pool: Pool, corpus: Path, tmp_path: Path
) -> None:
    changes = MUON | {"optimizer.kind": before, "run.stop_at_step": 1}
    launch(pool, small_config(corpus, changes=changes), tmp_path)
    config = small_config(corpus, changes=MUON | {"optimizer.kind": after})
    with pytest.raises(JobFailedError, match=r"saved with another optimizer\. Give optimizer\.kind as it was, or name"):
        pool.run(worlds.reshard, 1, config, tmp_path, tmp_path / "to")
