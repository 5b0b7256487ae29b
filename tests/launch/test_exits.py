from __future__ import annotations

import pytest

from harness.launch.exits import WorkerExit, root_failure


@pytest.mark.parametrize(
    ("return_code", "failed", "exit_code", "text"),
    [
        (0, False, 0, "rank 3 left with exit code 0"),
        (75, False, 75, "rank 3 left with exit code 75"),
        (76, False, 76, "rank 3 left with exit code 76"),
        (77, False, 77, "rank 3 left with exit code 77"),
        (64, True, 64, "rank 3 left with exit code 64"),
        (65, True, 65, "rank 3 left with exit code 65"),
        (70, True, 70, "rank 3 left with exit code 70"),
        (1, True, 70, "rank 3 left with exit code 1"),
        (-9, True, 70, "rank 3 was killed by SIGKILL: by a person, the scheduler, or the kernel for want of memory"),
        (-11, True, 70, "rank 3 was killed by SIGSEGV"),
        (-40, True, 70, "rank 3 was killed by signal 40"),
    ],
)
def test_the_end_of_one_worker(return_code: int, failed: bool, exit_code: int, text: str) -> None:
    end = WorkerExit(rank=3, return_code=return_code)
    assert (end.failed, end.exit_code, str(end)) == (failed, exit_code, text)


@pytest.mark.parametrize(
    ("return_codes", "rank"),
    [
        ([0, 0], None),
        ([75, 75], None),
        ([], None),
        ([70, 65], 1),
        ([1, 70, 64], 2),
        ([65, 70, -9], 2),
        ([70, 70], 0),
        ([0, 1], 1),
    ],
)
def test_who_is_to_blame_among_several(return_codes: list[int], rank: int | None) -> None:
    ended = [WorkerExit(rank=rank, return_code=code) for rank, code in enumerate(return_codes)]
    blamed = root_failure(ended)
    assert (blamed.rank if blamed else None) == rank
