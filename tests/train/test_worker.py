from __future__ import annotations

import pytest
import torch

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
