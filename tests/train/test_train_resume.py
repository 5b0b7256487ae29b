"""A run that was stopped goes on as if nothing had happened, under the same layout to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import worlds
from pool import Pool
from small_run import EVALUATION, LAYOUT_STEPS, Grid, LayoutRun, launch, records, small_config

from harness.run.paths import RunDir
from harness.run.records import StepRecord


class Stretch(NamedTuple):
    """A launch that runs up to a step under one layout."""

    grid: Grid
    stop_at_step: int


def launch_in_stretches(
    pool: Pool, corpus: Path, run_dir: Path, stretches: Sequence[Stretch], changes: Mapping[str, Any] | None = None
) -> None:
    for number, stretch in enumerate(stretches):
        stop = {"run.stop_at_step": stretch.stop_at_step}
        config = small_config(corpus, stretch.grid, {**stop, **EVALUATION, **(changes or {})})
        launch(pool, config, run_dir, "must" if number else "never")


def comparable(record: StepRecord) -> tuple[object, ...]:
    """Everything of a record but the clock."""
    values = {name: value for name, value in record.values.items() if not name.startswith("perf/")}
    return record.attempt, record.step, record.batch_hash, record.consumed_samples, record.consumed_tokens, values


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(), Grid(tp=2, pp=2), Grid(dp=2)], ids=["one-rank", "tp2-pp2", "dp2"])
def test_resume_is_bitwise_at_the_same_layout(
    grid: Grid, pool: Pool, corpus: Path, layout_run: LayoutRun, tmp_path: Path
) -> None:
    """Losses, norms, learning rates, data, weights, moments: five steps and five steps are ten."""
    launch_in_stretches(pool, corpus, tmp_path, [Stretch(grid, 5), Stretch(grid, LAYOUT_STEPS)])
    straight, resumed = records(layout_run(grid))[:LAYOUT_STEPS], records(tmp_path)
    assert [comparable(record) for record in resumed[5:]] == [comparable(record) for record in straight[5:]]
    assert [record.step for record in resumed] == list(range(1, LAYOUT_STEPS + 1))
    checkpoints = [RunDir(run_dir).checkpoint(LAYOUT_STEPS) for run_dir in (layout_run(grid), tmp_path)]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


def test_resume_in_bf16_is_bitwise(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """Weights are bf16 then, and the master weights behind them are part of the optimizer's state."""
    for name, stops in {"straight": [6], "resumed": [3, 6]}.items():
        for stop in stops:
            changes = {"precision.dtype": "bf16", "run.stop_at_step": stop, "model.num_layers": 2}
            launch(pool, small_config(corpus, Grid(dp=2), changes), tmp_path / name)
    straight, resumed = records(tmp_path / "straight"), records(tmp_path / "resumed")
    assert [comparable(record) for record in resumed] == [comparable(record) for record in straight]
    checkpoints = [RunDir(tmp_path / name).checkpoint(6) for name in ("straight", "resumed")]
    assert pool.run(worlds.differing_tensors, 1, *checkpoints)[0] == {}


ROUTES = {
    "gather": [Stretch(Grid(tp=2, pp=2), 4), Stretch(Grid(dp=2), 7), Stretch(Grid(), LAYOUT_STEPS)],
    "scatter": [Stretch(Grid(), 3), Stretch(Grid(pp=2, vp=2), 6), Stretch(Grid(tp=2, dp=2), LAYOUT_STEPS)],
}


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_resume_across_layouts_goes_on_within_rounding(
    route: list[Stretch], pool: Pool, corpus: Path, base_run: Path, tmp_path: Path
) -> None:
    launch_in_stretches(pool, corpus, tmp_path, route)
    resumed, straight = records(tmp_path), records(base_run)[:LAYOUT_STEPS]
    assert [record.batch_hash for record in resumed] == [record.batch_hash for record in straight]
    for name in ("train/lm_loss", "optim/grad_norm", "optim/learning_rate"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (Grid(tp=2, pp=2), Grid(dp=2)),
        (Grid(dp=2), Grid(tp=2, pp=2)),
        (Grid(), Grid(pp=2, vp=2)),
        (Grid(tp=2, dp=2), Grid()),
    ],
    ids=["tp2-pp2-to-dp2", "dp2-to-tp2-pp2", "one-rank-to-pp2-vp2", "tp2-dp2-to-one-rank"],
)
def test_weights_and_moments_survive_resharding_to_the_last_bit(
    saved: Grid, loaded: Grid, pool: Pool, corpus: Path, layout_run: LayoutRun, tmp_path: Path
) -> None:
    """Loaded under another layout and written again, a checkpoint holds the same tensors."""
    run_dir, again = tmp_path / "run", tmp_path / "again"
    source = RunDir(layout_run(saved)).checkpoint(LAYOUT_STEPS)
    shutil.copytree(source, RunDir(run_dir).checkpoint(LAYOUT_STEPS))
    config = small_config(corpus, loaded)
    assert pool.run(worlds.reshard, loaded.world_size, config, run_dir, again) == [LAYOUT_STEPS] * loaded.world_size
    assert pool.run(worlds.differing_tensors, 1, source, again)[0] == {}


@pytest.mark.slow
def test_a_norm_that_tensor_parallel_ranks_share_survives_resharding(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """Its weight is cut, unlike that of any other norm: two ranks and one go on with the same one."""
    over_width = {"model.qk_layernorm": True, "model.qk_layernorm_over": "width", "model.norm_placement": "behind"}
    for name, grids in {"straight": [Grid(), Grid()], "through two": [Grid(), Grid(tp=2), Grid()]}.items():
        for grid, stop in zip(grids, (2, 6) if len(grids) == 2 else (2, 4, 6), strict=True):
            launch(pool, small_config(corpus, grid, {**over_width, "run.stop_at_step": stop}), tmp_path / name)
    straight, resumed = records(tmp_path / "straight"), records(tmp_path / "through two")
    for name in ("train/lm_loss", "optim/grad_norm"):
        found = [record.values[name] for record in resumed]
        assert found == pytest.approx([record.values[name] for record in straight], rel=1e-5)


def test_checkpoints_of_two_steps_differ(pool: Pool, base_run: Path) -> None:
    """The comparison above sees differences: every trained tensor and the step count."""
    checkpoints = [RunDir(base_run).checkpoint(step) for step in (10, 20)]
    found = pool.run(worlds.differing_tensors, 1, *checkpoints)[0]
    assert {"groups", "embedding.word_embeddings.weight"} < set(found)
    assert sum(name.startswith("optimizer.state.exp_avg_sq.") for name in found) == 8
