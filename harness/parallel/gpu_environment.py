"""The environment variables that CUDA and torch read when the GPU is first used. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from harness.config.parallel import ParallelConfig
from harness.config.phase_settings import parallel_of
from harness.config.schema import Config

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def settle_for(config: Config, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what the layouts of all phases are fastest with (see `settle`)."""
    for index in range(len(config.phases)):
        settle(parallel_of(config, index), environ)


def settle(parallel: ParallelConfig, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what the layout is fastest with, unless the user has set it. To be called before torch is imported."""
    if not any(name in environ for name in _ALLOCATOR):
        # Large blocks grow instead of being kept apart: less memory is lost between allocations.
        environ[_ALLOCATOR[0]] = "expandable_segments:True"
    if parallel.tensor_model_parallel_size > 1 or parallel.context_parallel_size > 1:
        # One queue for all kernels: Megatron starts a collective before the product that hides it, and means it.
        environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
