"""Four phases with parts arriving, killed again and again: the end is, bit for bit, that of a run that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import phase_kills
import pytest
import worlds
from phased_site import LAST_STEP
from pool import Pool
from process_runs import REPOSITORY

from harness.run.paths import RunDir

pytestmark = pytest.mark.slow


def require_same_end(root: Path, seed: int, num_kills: int, pool: Pool) -> None:
    """A run that is killed is, bit for bit, one that was not."""
    campaign = [sys.executable, phase_kills.__file__, str(root), str(seed), str(num_kills)]
    folders = [REPOSITORY, *(REPOSITORY / "tests" / name for name in ("", "train", "faults"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run(campaign, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = [RunDir(folder / "run").checkpoint(LAST_STEP) for folder in (root, root / "undisturbed")]
    assert pool.run(worlds.differing_tensors, 1, *ends) == [{}]


def test_a_run_of_four_phases_killed_at_random_ends_like_one_that_was_not(tmp_path: Path, pool: Pool) -> None:
    require_same_end(tmp_path / "site", 1, 2, pool)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_run_of_four_phases_killed_twenty_times_ends_like_one_that_was_not(
    seed: int, tmp_path: Path, pool: Pool
) -> None:
    require_same_end(tmp_path / "site", seed, 20, pool)
