"""Checks that packages are installed which a configuration needs, before anything is started. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from harness.config.parallel import ParallelConfig
from harness.config.schema import Config
from harness.errors import ConfigError, UsageError
from harness.missing_package import describe_missing

TRANSFORMER_ENGINE = "transformer_engine"


def parallel_sections(config: Config) -> dict[str, ParallelConfig]:
    """Return the sections that describe a layout, by their place in the YAML: that of the run and those of phases."""
    own = {f"phases.{n}.parallel": phase.parallel for n, phase in enumerate(config.phases) if phase.parallel}
    return {"parallel": config.parallel, **own}


def require_installed(config: Config, *, num_gpus: int | None = None, module: str = TRANSFORMER_ENGINE) -> None:
    """Make sure that the packages and GPUs that the configuration needs are there. `num_gpus` is None if unknown.

    Raises:
        ConfigError: A ring of context-parallel ranks or fp8 is asked for without Transformer Engine, or without a GPU.
    """
    for given, way_out in _needs_transformer_engine(config):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                [
                    f"{given}, which needs Transformer Engine, and that is not installed; on a machine with GPUs: "
                    f"pip install 'harness[transformer-engine]', or {way_out}"
                ]
            )
        if num_gpus == 0:
            raise ConfigError([f"{given}, which needs GPUs, and this machine has none; {way_out}"])


def require_trainer() -> None:
    """Make sure that the packages without which no run trains are there.

    Raises:
        UsageError: One is not installed.
    """
    for module in ("numpy", "torch", "megatron"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(describe_missing(ModuleNotFoundError(name=module)) or module)


def _needs_transformer_engine(config: Config) -> Iterator[tuple[str, str]]:
    """Yield what asks for Transformer Engine, and how to do without."""
    if config.precision.fp8 is not None:
        yield f"precision.fp8: products are to be computed in fp8 ({config.precision.fp8})", "leave precision.fp8 out"
    for place, section in parallel_sections(config).items():
        if section.cp_comm_type == "p2p":
            yield f"{place}.cp_comm_type: ranks are to share samples in a ring (p2p)", "take allgather or a2a"
