"""Checks that packages are installed which a configuration needs, before anything is started. Imports no torch."""

from __future__ import annotations

import importlib.util

from harness.config.schema import Config
from harness.errors import ConfigError

TRANSFORMER_ENGINE = "transformer_engine"


def require_installed(config: Config, *, num_gpus: int | None = None, module: str = TRANSFORMER_ENGINE) -> None:
    """Make sure that the packages and GPUs that the configuration needs are there.

    Args:
        config: The configuration.
        num_gpus: GPUs of this machine; None if unknown.
        module: Module name of Transformer Engine.

    Raises:
        ConfigError: Context parallelism is asked for without Transformer Engine, or without a GPU.
    """
    sections = {f"phases.{n}.parallel": phase.parallel for n, phase in enumerate(config.phases) if phase.parallel}
    given_sizes = {
        place: section.context_parallel_size for place, section in {"parallel": config.parallel, **sections}.items()
    }
    place = max(given_sizes, key=lambda place: given_sizes[place])
    size = given_sizes[place]
    if size == 1:
        return
    given = f"{place}.context_parallel_size: {size} ranks are to share a sequence"
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            [
                f"{given}, which needs Transformer Engine, and that is not installed; on a machine with GPUs: "
                "pip install 'harness[transformer-engine]', or take context_parallel_size 1"
            ]
        )
    if num_gpus == 0:
        raise ConfigError([f"{given}, which needs GPUs, and this machine has none; take context_parallel_size 1"])
