"""Runs that several tests look at: each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pool import Pool
from small_run import EVALUATION, LAYOUT_STEPS, Grid, LayoutRun, launch, small_config, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the three channels."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def base_run(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 50 steps on one rank, saved and evaluated every 10 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "base"
    launch(pool, small_config(corpus, Grid(), {"checkpoint.save_every_steps": 10, **EVALUATION}), run_dir)
    return run_dir


@pytest.fixture(scope="session")
def layout_run(pool: Pool, corpus: Path, base_run: Path, tmp_path_factory: pytest.TempPathFactory) -> LayoutRun:
    """The first 10 steps of the same run under any layout, with a checkpoint and an evaluation at the end."""
    folder = tmp_path_factory.mktemp("runs")
    made = {Grid(): base_run}

    def run(grid: Grid) -> Path:
        if grid not in made:
            made[grid] = folder / f"layout-{len(made)}"
            launch(pool, small_config(corpus, grid, {"run.stop_at_step": LAYOUT_STEPS, **EVALUATION}), made[grid])
        return made[grid]

    return run
