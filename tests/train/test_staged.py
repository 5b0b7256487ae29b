"""A checkpoint's optimizer state: the same bits as Megatron's own way of gathering, of what each replica writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import staging_jobs
from pool import Pool
from small_run import Grid, launch, small_config

from harness.checkpoint.staged import Stretch, pieces_of
from harness.run.paths import RunDir

BF16 = {"precision.dtype": "bf16"}
EXPERTS = {"model.num_moe_experts": 4, "model.moe_ffn_hidden_size": 48}


@pytest.mark.parametrize(
    ("grid", "changes"),
    [
        (Grid(), {}),
        (Grid(dp=2), {}),
        (Grid(dp=4), {}),
        (Grid(tp=2, dp=2), BF16),
        (Grid(pp=2, vp=2, dp=2), {}),
        (Grid(dp=4, ep=2), EXPERTS),
        (Grid(tp=2, dp=2, ep=4, etp=1, sequence_parallel=True), EXPERTS),
    ],
    ids=["1", "dp2", "dp4", "tp2-dp2", "pp2-vp2-dp2", "dp4-ep2", "tp2-dp2-ep4-etp1"],
)
def test_each_replica_has_megatrons_bits_of_what_it_writes(
    pool: Pool, corpus: Path, tmp_path: Path, grid: Grid, changes: dict[str, object]
) -> None:
    config = small_config(corpus, grid, changes)
    ranks = pool.run(staging_jobs.compare_ways, grid.world_size, config, tmp_path / "run")
    for of_rank in ranks:
        assert len(of_rank.written) >= 3
        assert of_rank.different == []
    if "model.num_moe_experts" not in changes:
        # All replicas together have everything once, but for what two ranks write a half each of.
        brought, whole = (sum(sizes) for sizes in zip(*((r.num_bytes, r.whole_bytes) for r in ranks), strict=True))
        assert brought < 1.3 * whole / grid.dp


@pytest.mark.parametrize("beside", [False, True])
def test_every_replica_writes_its_share(pool: Pool, corpus: Path, tmp_path: Path, *, beside: bool) -> None:
    changes = {"run.stop_at_step": 2, "checkpoint.save_every_steps": 1, "checkpoint.async_save": beside}
    launch(pool, small_config(corpus, Grid(dp=2), changes), tmp_path)
    files = list(RunDir(tmp_path).checkpoint(1).glob("*.distcp"))
    written = [sum(file.stat().st_size for file in files if file.name.startswith(f"__{rank}_")) for rank in (0, 1)]
    assert min(written) > 0.4 * sum(written)


@pytest.mark.parametrize(
    ("place", "pieces"),
    [
        (Stretch(0, 10), [(0, Stretch(0, 10))]),
        (Stretch(5, 15), [(0, Stretch(0, 5)), (1, Stretch(5, 10))]),
        (Stretch(10, 20), [(1, Stretch(0, 10))]),
        (Stretch(9, 31), [(0, Stretch(0, 1)), (1, Stretch(1, 11)), (2, Stretch(11, 21)), (3, Stretch(21, 22))]),
    ],
)
def test_a_parameter_lies_in_the_shares_of_some_ranks(place: Stretch, pieces: list[tuple[int, Stretch]]) -> None:
    assert list(pieces_of(place, 10)) == pieces
