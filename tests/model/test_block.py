"""Layers: what is refused before they are built, and how they work together."""

from __future__ import annotations

import importlib.util
from typing import Any

import model_jobs
import pytest
import torch
import worlds
from model_samples import small_model_config
from pool import JobFailedError, Pool

from harness.errors import UsageError
from harness.model.kernels.launch import require_compiler


def test_fp8_that_would_silently_be_bf16_is_refused(pool: Pool) -> None:
    config = small_model_config({"dtype": "bf16", "fp8": "hybrid"})
    text = (
        r"precision\.fp8: hybrid needs a GPU and Transformer Engine, and one of them is missing here: Megatron would "
        r"silently compute in bf16; see `harness doctor`, or leave precision\.fp8 out"
    )
    with pytest.raises(JobFailedError, match=text):
        pool.run(worlds.initial_weights, 1, config)


def test_a_gpu_without_triton_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    require_compiler(torch.device("cpu"))
    with pytest.raises(UsageError, match=r"sees a GPU, but Triton is not installed, .* pip install triton$"):
        require_compiler(torch.device("cuda"))


@pytest.mark.parametrize(
    ("parallel", "counts"),
    [
        ({}, [{"behind a sum": 4, "found": 2}]),
        # Each layer normalizes for its MLP only, once forward and once when it is computed again.
        ({"recompute": "full"}, [{"behind a sum": 4, "found": 0}]),
        # The last layer of the first stage has no norm behind it.
        ({"pipeline_model_parallel_size": 2}, [{"behind a sum": 1, "found": 0}, {"behind a sum": 2, "found": 1}]),
    ],
)
def test_a_layer_normalizes_for_the_one_behind_it(
    parallel: dict[str, Any], counts: list[dict[str, int]], pool: Pool
) -> None:
    config = small_model_config({"dtype": "fp32"}, parallel=parallel)
    assert pool.run(model_jobs.norms_of_a_step, len(counts), config) == counts
