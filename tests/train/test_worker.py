from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from harness.launch.local import WORKER
from harness.launch.node import CHECK
from harness.train.worker import memory_advice


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "the memory of this host is used up"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "of this host"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "Lower parallel.micro_batch_size"),
    ],
)
def test_who_runs_out_of_memory_hears_what_to_do(error: Exception, advice: str) -> None:
    text = memory_advice(error)
    assert text is not None
    assert advice in text


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), OSError(28, "No space left on device")])
def test_nothing_is_said_of_memory_where_something_else_is_wrong(error: Exception) -> None:
    assert memory_advice(error) is None


@pytest.mark.parametrize(
    "command",
    [(*WORKER, "--run-dir", "run"), (*CHECK, "--launch", "run")],
    ids=["worker", "node check"],
)
def test_a_rank_that_shares_its_log_says_who_it_is(tmp_path: Path, command: tuple[str, ...]) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment["HARNESS_LOG_LABEL"] = "[rank 7] "
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 64
    assert ended.stderr.startswith("[rank 7] harness: error: ")
    assert all(line.startswith("[rank 7] ") for line in ended.stderr.splitlines())
