"""Identifies the configuration and the programs that write a checkpoint."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

import xxhash

from harness.config.load import dump_config
from harness.config.schema import Config
from harness.run.checkpoints.manifest import Versions
from harness.version import VERSION


def config_hash(config: Config) -> str:
    """Return the hash of the configuration as it is written to the run directory."""
    return xxhash.xxh3_64_hexdigest(dump_config(config).encode())


@cache
def versions() -> Versions:
    """Return the versions of the running programs. They are looked up once."""
    return Versions(
        harness=VERSION,
        megatron_core=version("megatron-core"),
        torch=version("torch"),
        python=platform.python_version(),
    )


def other_versions(saved: Versions, now: Versions) -> str | None:
    """Return a message if other versions go on than those that saved; None if they are the same."""
    before, after = saved.model_dump(), now.model_dump()
    changed = [f"{name} {before[name]}, now {after[name]}" for name in after if before[name] != after[name]]
    if not changed:
        return None
    return f"it was saved by other versions: {'; '.join(changed)}: steps may differ in the last bits"
