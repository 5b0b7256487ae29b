"""What wrote a checkpoint, and by which configuration."""

from __future__ import annotations

import platform
from importlib.metadata import version

import xxhash

from harness.checkpoint.manifest import Versions
from harness.config.load import dump_config
from harness.config.schema import Config


def config_hash(config: Config) -> str:
    """Hash of the configuration as it is written to the run directory."""
    return xxhash.xxh3_64_hexdigest(dump_config(config).encode())


def versions() -> Versions:
    """Of the programs that are running."""
    return Versions(
        harness=version("harness"),
        megatron_core=version("megatron-core"),
        torch=version("torch"),
        python=platform.python_version(),
    )
