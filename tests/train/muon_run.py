"""Job for the pool: the state of a run around steps that are applied, and one that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refused_step import around_refused_step

if TYPE_CHECKING:
    from harness.config.schema import Config


def states_around_steps(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path
) -> list[tuple[int, ...]]:
    """Checksums of weights and optimizer state: after a step, after one that is not finite, and after another."""
    _, *found = around_refused_step(rank, world_size, init_method, config, run_dir, _checksums)
    return found


def _checksums(run: Any) -> tuple[int, ...]:
    from harness.train.saving.snapshots import live
    from harness.train.steps.restored import checksum

    return tuple(int(checksum(tensor)) for tensor in live(run))
