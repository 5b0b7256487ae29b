"""What CUDA and torch find in the environment."""

from __future__ import annotations

import pytest

from harness.config.parallel import ParallelConfig
from harness.parallel.gpu_environment import settle

GROWING = "expandable_segments:True"


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": GROWING}),
        ({"pipeline_model_parallel_size": 2}, {"PYTORCH_ALLOC_CONF": GROWING}),
        ({"tensor_model_parallel_size": 2}, {"PYTORCH_ALLOC_CONF": GROWING, "CUDA_DEVICE_MAX_CONNECTIONS": "1"}),
        ({"context_parallel_size": 2}, {"PYTORCH_ALLOC_CONF": GROWING, "CUDA_DEVICE_MAX_CONNECTIONS": "1"}),
    ],
)
def test_layouts_get_what_they_are_fastest_with(parallel: dict[str, int], expected: dict[str, str]) -> None:
    environ: dict[str, str] = {}
    settle(ParallelConfig(**parallel), environ)
    assert environ == expected


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_the_user_has_set_stays(name: str) -> None:
    environ = {name: "max_split_size_mb:64", "CUDA_DEVICE_MAX_CONNECTIONS": "8"}
    settle(ParallelConfig(tensor_model_parallel_size=2), environ)
    assert environ == {name: "max_split_size_mb:64", "CUDA_DEVICE_MAX_CONNECTIONS": "8"}
