"""An error on one rank ends all of them with its exit code."""

from __future__ import annotations

import agreement_jobs
from pool import Pool


def test_a_disk_that_refuses_is_told_once_and_ends_every_rank(pool: Pool) -> None:
    first, second = pool.run(agreement_jobs.refused_on_rank_0, 2)
    assert first == (
        65,
        "the disk refused /run/metrics.jsonl: Too many open files. No step was taken, and no checkpoint was touched. "
        "Check the file system and the limits of this process, then start again.",
    )
    assert second == (65, "")
